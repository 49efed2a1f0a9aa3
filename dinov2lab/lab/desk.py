"""A search: asks for points, has them computed as runs, tells what came out. All its state is on disk.

Every process that works on a search does the same, in turns: under the search's lock it looks at its trials, tells the
storage what has ended, and takes up the next ones: a trial that nobody works on any more first, then a promotion, then a new
point. A trial belongs to the process that holds the lock file of its number, which dies with it. So more workers are the same
command once more, and after a kill the same command goes on.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from dinov2lab.lab.bench import Bench
from dinov2lab.lab.earlier import add_earlier, handed_on, refuse_unknown
from dinov2lab.lab.gaussian import Gaussian
from dinov2lab.lab.proposals import StorageError, encoded, open_study, sampler, settle, size, suggest, using
from dinov2lab.lab.rungs import promotable, stops_at
from dinov2lab.lab.trials import collapse, means, measured, points_asked, record_of, spent, within_budget
from dinov2lab.spec.points import Planned, base_point, reason_of, runs_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.trials import Trial, as_stored, write_trials

LONG = 60.0  # seconds for which another process may be at its turn
BETWEEN = 0.02  # seconds between two tries to have one


@dataclass
class _Task:
    """A trial that this process works on."""

    trial: optuna.Trial
    planned: tuple[Planned, ...]
    claim: ExitStack
    cached: bool  # all its runs had results when it began: already paid for, and nothing is saved by stopping
    seen: set[int]  # steps told to the storage
    offsets: dict[str, int] = field(default_factory=dict)  # run -> how far its metrics.jsonl was read
    judged: bool = False  # by this process


class _End(NamedTuple):
    state: TrialState
    values: list[float] | None = None
    reason: str | None = None
    stopped: bool = False  # told as complete, with the seeds that it had


class Desk:
    """One process's part in a search."""

    def __init__(
        self,
        search: SearchSpec,
        workspace: Workspace,
        bench: Bench,
        storage: str | None = None,
        jobs: int | None = None,
        gaussian: Gaussian | None = None,
    ) -> None:
        """`jobs`: trials at a time; none given, as many as the bench takes. Several desks may share a `gaussian`."""
        self.search, self._workspace, self._bench, self._url = search, workspace, bench, storage
        self._jobs = jobs or bench.jobs
        self._folder = workspace.search(search.name)
        self._tasks, self._gaussian = dict[int, _Task](), gaussian or Gaussian()
        with self._alone():
            refuse_unknown(search, workspace)
            self._study = open_study(search, self._folder, storage)
            atomic.write_text(self._folder / "search.json", as_stored(search))
            self.earlier = add_earlier(self._study, search, workspace)
            self._enqueue()
            self._write()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, the search is this process's, and what a storage says is a StorageError. A turn of another one is short:
        one that does not end, as of a process that was halted within it, is a StorageError too.
        """
        began, taken = time.monotonic(), False
        while not taken:
            with atomic.locked(self._folder / "lock", wait=False) as taken, using(self.search, self._url):
                if taken:
                    yield
            if not taken and time.monotonic() - began > LONG:
                raise StorageError(f"search {self.search.name} is locked by another process: {self._folder / 'lock'}")
            if not taken:
                time.sleep(BETWEEN)

    def _enqueue(self) -> None:
        """The points to try first, those of a person before those of other searches, which are taken over once."""
        for given in self.search.enqueue:
            point = base_point(self.search) if given == "base" else given
            self._ask_for(point, origin="enqueued")
        had = {each.user_attrs.get("source") for each in self._study.get_trials(deepcopy=False)}
        for source, point in handed_on(self.search, self._workspace):
            if source not in had:
                self._ask_for(point, origin="transferred", source=source)

    def _ask_for(self, point: Mapping[str, Any], **told: str) -> None:
        params = {key: encoded(value) for key, value in point.items()}
        self._study.enqueue_trial(params, user_attrs=told, skip_if_exists=True)

    def turn(self) -> bool:
        """Tell what has ended, and begin what can be; whether there is anything left to wait for. Raises StorageError."""
        with self._alone():
            self._bench.tend()
            changed = [self._advance(task) for task in sorted(self._tasks.values(), key=lambda task: task.trial.number)]
            while len(self._tasks) < self._jobs and (trial := self._next()):
                self._take(trial)
                changed.append(True)
            if any(changed):
                self._write()
                settle(self._folder)
            return bool(self._tasks or self._in_state(TrialState.RUNNING))

    def conclude(self) -> None:
        """Say that nothing is left to do."""
        atomic.write_text(self._folder / "concluded", as_stored(self.search))

    def leave(self) -> None:
        """Let others have the trials that are under way."""
        for task in self._tasks.values():
            task.claim.close()
        self._tasks.clear()

    # What comes next

    def _next(self) -> optuna.Trial | None:
        """The trial to work on next; None where nothing is left, or the budget is spent."""
        for found in self._in_state(TrialState.RUNNING):
            if found.number not in self._tasks and not atomic.held(self._claim(found.number)):
                self._study.sampler = self._sampler(found.number)
                return optuna.Trial(self._study, found._trial_id)
        waiting, trials = self._in_state(TrialState.WAITING), self._records()
        if not within_budget(self.search, trials.values(), self._workspace):
            return None
        if not any("parent" in each.user_attrs for each in waiting):
            if self.search.rungs and (stopped := promotable(trials, self.search)):
                self._promote(stopped)
            elif points_asked(trials.values()) >= self._most():
                return None
        waiting = self._in_state(TrialState.WAITING)
        number = waiting[0].number if waiting else len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._sampler(number)
        return self._study.ask()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """By how many points came before: promotions, which fall otherwise in searches of other arms, do not shift it."""
        before = self._study.get_trials(deepcopy=False)[:number]
        asked = sum("parent" not in each.user_attrs for each in before)
        return sampler(self.search, asked, self._gaussian)

    def _promote(self, stopped: Trial) -> None:
        params = {key: encoded(value) for key, value in stopped.point.items()}
        self._study.enqueue_trial(params, user_attrs={"origin": "promoted", "parent": stopped.number})

    def _most(self) -> float:
        bounds = (self.search.budget.trials, size(self.search))
        return min((bound for bound in bounds if bound is not None), default=math.inf)

    def _take(self, trial: optuna.Trial) -> None:
        with ExitStack() as claim:
            claim.enter_context(atomic.locked(self._claim(trial.number)))
            point = suggest(trial, self.search)
            try:
                planned = runs_at(self.search, point)
            except ValueError as error:  # values that do not fit each other
                self._tell(trial, (), _End(TrialState.FAIL, reason=reason_of(error)))
                return
            attributes = trial.user_attrs
            if "runs" not in attributes:
                attributes |= self._begin(trial, planned)
            seen = set(self._study.get_trials(deepcopy=False)[trial.number].intermediate_values)
            task = _Task(trial, planned, claim.pop_all(), bool(attributes.get("cached")), seen)
            self._tasks[trial.number] = task
        self._advance(task)

    def _begin(self, trial: optuna.Trial, planned: tuple[Planned, ...]) -> dict[str, Any]:
        """Link a new trial to its runs, for good. What failed before is tried again."""
        folders = [self._workspace.run(each.run) for each in planned]
        for folder in folders:
            with atomic.locked(folder.lock, wait=False) as mine:
                if mine and folder.failure.exists():
                    folder.forget_failure()
        attributes: dict[str, Any] = {"cached": True} if all(folder.result.exists() for folder in folders) else {}
        for name, value in (attributes := attributes | {"runs": [each.run for each in planned]}).items():
            trial.set_user_attr(name, value)
        return attributes

    # What has ended

    def _advance(self, task: _Task) -> bool:
        """Whether the trial has ended."""
        end = self._judged(task)
        task.judged = True
        if end is None:
            return False
        self._tell(task.trial, task.planned, end)
        for each in task.planned:
            self._bench.stop(each.run)
        task.claim.close()
        del self._tasks[task.trial.number]
        return True

    def _judged(self, task: _Task) -> _End | None:
        """How the trial ended; None, and its next run is computed, as long as it has not."""
        values = list[list[float]]()
        for place, planned in enumerate(task.planned):
            folder = self._workspace.run(planned.run)
            outcome = folder.outcome()  # before its rows: where there is one, they are all there
            if end := self._look(task, folder):
                return end
            if outcome is None:
                if not self._bench.computes(planned.run) and self._bench.free() and not atomic.held(folder.lock):
                    self._bench.start(planned)
                return None
            if outcome.status == "failed":
                return _End(TrialState.FAIL, reason=(outcome.error or "failed without a message").splitlines()[-1])
            values.append([measured(outcome, metric) for metric in self.search.metrics])
            named = zip(self.search.metrics, values[-1], strict=True)
            if bad := [metric for metric, value in named if not math.isfinite(value)]:
                return _End(TrialState.FAIL, reason=f"{bad[0]} is no number")
            if self._stops_after_seed(task, place, values):
                return _End(TrialState.COMPLETE, means(values), f"stopped after {place + 1} seeds", stopped=True)
        return _End(TrialState.COMPLETE, means(values))

    def _look(self, task: _Task, folder: RunFolder) -> _End | None:
        """Read what the run has written since, one look at val after the other; the end of the trial, if one says so."""
        metric = next(iter(self.search.metrics))
        single = len(task.planned) == 1 and len(self.search.metrics) == 1
        if not task.judged and (end := self._stopped(task)):
            return end
        for row in self._new_rows(task, folder):
            if reason := collapse(row):
                return _End(TrialState.FAIL, reason=reason)
            if single and metric in row and row["images"] not in task.seen and math.isfinite(row[metric]):
                task.trial.report(row[metric], step=row["images"])
                task.seen.add(row["images"])
                if end := self._stopped(task):
                    return end
        return None

    def _new_rows(self, task: _Task, folder: RunFolder) -> Iterator[dict[str, Any]]:
        run = folder.path.name
        offset = task.offsets.get(run, 0)
        if not folder.metrics.exists() or folder.metrics.stat().st_size == offset:
            return
        rows, task.offsets[run] = folder.rows_after(offset)
        yield from rows

    def _stopped(self, task: _Task) -> _End | None:
        if not self.search.rungs or task.cached or not task.seen:
            return None
        trials = self._records()
        at = stops_at(trials[task.trial.number], trials, self.search)
        return _End(TrialState.PRUNED, reason=f"stopped at the rung of {at} images") if at is not None else None

    def _stops_after_seed(self, task: _Task, place: int, values: list[list[float]]) -> bool:
        """Wilcoxon over seeds; with other pruners the seeds' values are only told."""
        if len(task.planned) == 1 or len(self.search.metrics) > 1:
            return False
        if place not in task.seen:
            task.trial.report(values[place][0], step=place)
            task.seen.add(place)
        more = place + 1 < len(task.planned)
        return more and place + 1 == len(task.seen) and not task.cached and task.trial.should_prune()

    def _tell(self, trial: optuna.Trial, planned: tuple[Planned, ...], end: _End) -> None:
        trial.set_user_attr("spent", spent(self._workspace.run(each.run) for each in planned))
        if end.reason:
            trial.set_user_attr("reason", end.reason)
        if end.stopped:
            trial.set_user_attr("stopped", True)
        self._study.sampler = optuna.samplers.RandomSampler()  # the grid's would stop a loop that is not there
        self._study.tell(trial.number, end.values, state=end.state)

    # What is there

    def _claim(self, number: int) -> Path:
        return self._folder / "trials" / f"{number}.lock"

    def _in_state(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def _records(self) -> dict[int, Trial]:
        trials = self._study.get_trials(deepcopy=False)
        return {each.number: record_of(each, self.search) for each in trials if each.state != TrialState.WAITING}

    def _write(self) -> None:
        write_trials(self._folder, list(self._records().values()))
