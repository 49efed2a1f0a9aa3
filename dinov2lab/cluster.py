"""Studies on a cluster: submitted once, watched and cancelled from any terminal, reported by their last job."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dinov2lab import commands, publisher, searching, terminal, tuning
from dinov2lab.commands import THE_USUAL, Places, Share
from dinov2lab.data.source import Roots
from dinov2lab.lab import opening, slurm, submit, tracking
from dinov2lab.lab.outcome import bury
from dinov2lab.lab.plan import is_finished
from dinov2lab.lab.slurm_bench import SlurmBench
from dinov2lab.lab.standing import standings
from dinov2lab.lab.submit import Order
from dinov2lab.searching import Again
from dinov2lab.spec.document import SpecError
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.profile import load_profile
from dinov2lab.spec.resources import Slurm
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Cell, Place, Study, expand
from dinov2lab.spec.tuning import searches
from dinov2lab.store import atomic, attempts, garbage, studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.state import Standing, State
from dinov2lab.store.submission import Jobs, launches, of_study, submission

SETTLED = ("done", "failed", "queued", "running")
POLL = 1.0  # seconds between two looks at a log
AT_ONCE = 8  # runs of a search, unless --jobs says otherwise: each is asked for without what the others will tell


def profiles_of(study: Study, names: Sequence[str], settings: Sequence[str]) -> dict[str, Slurm]:
    """The profile of each arm: `NAME` for all of them, `ARM=NAME` for one; `settings` change them all."""
    arms = [arm.name for arm in study.arms]
    common, own = None, dict[str, str]()
    for text in names:
        arm, equals, name = text.rpartition("=")
        if equals and arm not in arms:
            raise SpecError(f"--profile {text}: there is no arm {arm!r}{did_you_mean(arm, arms)}")
        if equals:
            own[arm] = name
        elif common is not None:
            raise SpecError(
                f"--profile {text}: {common} is the profile of all arms already; ARM=NAME is for one of them"
            )
        else:
            common = name
    loaded = {name: load_profile(name, settings) for name in {common, *own.values()}}
    return {arm: loaded[own.get(arm, common)] for arm in arms}


def _refuse_local(share: Share) -> None:
    """Raise ValueError for those of `run`'s options that were given, and that a profile says on a cluster, or nobody."""
    given = {name: getattr(share, name) != usual for name, usual in Share._field_defaults.items() if name != "jobs"}
    apart = {"side_by_side": given.pop("side_by_side")}
    commands.refuse(
        "on Slurm a profile says it, as in --slurm tasks_per_node=2 (docs/cluster.md has its keys)", **given
    )
    commands.refuse("is for this machine; on Slurm --slurm micro_batches=N saves memory", **apart)


def run(
    found: Study | Cell,
    places: Places,
    profiles: Sequence[str],
    settings: Sequence[str],
    share: Share = THE_USUAL,
    *,
    rerun: bool,
    dry_run: bool,
    as_json: bool = False,
) -> int:
    """The exit code of `run` on a cluster. It returns when the jobs are with Slurm. Arms that are to be tuned are so first,
    so many runs at a time as `share` says, which says nothing else here.
    """
    _refuse_local(share)
    if not isinstance(found, Study):
        raise ValueError("--launcher slurm wants a study; a recipe alone runs here")
    arms, report = profiles_of(found, profiles, settings), places.reports / found.name
    if found.tune is None:
        commands.refuse("how many runs go on at a time is the profile's: --slurm parallel=N", jobs=share.jobs)
    if found.untuned and dry_run:
        tuning.show_tuning(found, places.workspace, as_json)
        return 0
    if found.untuned:
        found = _tuned(found, places, arms, share.jobs or AT_ONCE)
    order = Order(found, arms, places.workspace, Roots(places.data, places.workspace.cache), places.reports)
    if dry_run:
        terminal.show_scripts(preview(order), as_json)
        return 0
    launched = launch(order, rerun=rerun)
    if launched.over:
        publish(order)
        terminal.show_verdict(found, commands.verdict_of(report), report, as_json)
        return int("failed" in launched.states)
    jobs_sent = launched.jobs.all if launched.jobs else ()
    terminal.show_launched(found, launched.submitted, jobs_sent, launched.states, as_json)
    return 0


def _tuned(study: Study, places: Places, profiles: Mapping[str, Slurm], jobs: int) -> Study:
    """`study` at what its searches found, whose runs are jobs. It returns when they have ended; the same command goes on."""
    roots, queue = Roots(places.data, places.workspace.cache), slurm.Queue()

    def bench(place: Place, search: SearchSpec) -> SlurmBench:
        return SlurmBench(search.name, search.base, places.workspace, roots, profiles[place.arm], jobs, queue)

    return tuning.tune(study, places.workspace, roots, places.reports, bench, jobs)


def search(
    found: SearchSpec,
    places: Places,
    profiles: Sequence[str],
    settings: Sequence[str],
    again: Again,
    *,
    jobs: int | None,
    storage: str | None,
    as_json: bool,
) -> int:
    """The exit code of `search` on a cluster: it asks and tells until the search has ended, and the runs are jobs."""
    commands.refuse(
        "with --confirm it is for this machine; on Slurm ask for it without, first", json=as_json and again.best
    )
    profile, report = _only_profile(profiles, settings), places.reports / found.name
    roots = Roots(places.data, places.workspace.cache)

    def bench() -> SlurmBench:
        return SlurmBench(found.name, found.base, places.workspace, roots, profile, jobs or AT_ONCE)

    trials = searching.run_search(found, places.workspace, roots, report, bench, storage)
    searching.show_search(found, trials, report, as_json)
    if again.best:
        study = searching.study_of_best(found, trials, again)
        failed = run(study, places, profiles, settings, rerun=False, dry_run=False)
        searching.publish(found, places.workspace, places.reports)
        return failed
    return searching.code_of(trials)


def _only_profile(names: Sequence[str], settings: Sequence[str]) -> Slurm:
    if len(names) > 1 or any("=" in name for name in names):
        raise SpecError(f"--profile {names[-1]}: a search has no arms; one profile is for all of its runs")
    return load_profile(next(iter(names), None), settings)


def preview(order: Order) -> list[tuple[str, str]]:
    """(what, sbatch's text) of the jobs that a launch would submit."""
    _refuse_cuts(order)
    left = [cell for cell, found in _standings(order) if found.state not in SETTLED]
    return submit.preview(order, left, close) if left else []


class Launched(NamedTuple):
    submitted: int  # runs
    jobs: Jobs | None  # none where nothing was left to submit
    states: list[State]  # of all runs, before

    @property
    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.jobs is None and not {"queued", "running"} & set(self.states)


def launch(order: Order, *, rerun: bool) -> Launched:
    """Submit what has no result and no job. What failed before is tried again. Raises ValueError."""
    submit.refuse_paths(order.workspace.path, order.reports)
    _refuse_cuts(order)
    opening.check(expand(order.study), order.roots)
    with atomic.locked(order.workspace.slurm / "lock"):
        queue = slurm.queue()
        submit.forget_half_sent(order.workspace, queue)
        for cell, found in _standings(order):
            _make_way(order.workspace.run(cell.run), found, rerun=rerun)
        studies.record(order.study, order.workspace)
        return _submit(order, queue, again=("waiting", "lost"))


def close(plan: str) -> str:
    """The last job of a launch: what got lost is submitted once more; where nothing is, it writes the report."""
    order = submit.read_order(Path(plan))
    with atomic.locked(order.workspace.slurm / "lock"):
        launched = _submit(order, slurm.queue(), again=("lost",))
    behind = publish(order)
    return f"submitted {launched.submitted} runs again; MLflow: {behind or 'up to date'}"


def publish(order: Order) -> str | None:
    """Report and MLflow, from what there is; returns what MLflow lacks and why."""
    report = order.reports / order.study.name
    if not is_finished(order.study, order.workspace, report):
        publisher.write(order.study, order.workspace, report)
    return tracking.try_sync(order.study, order.workspace, order.reports, seconds=600)


def _submit(order: Order, queue: Mapping[str, slurm.Queued], again: Sequence[State]) -> Launched:
    found = _standings(order)
    left = []
    for cell, each in found:
        folder = order.workspace.run(cell.run)
        if each.state not in again:
            continue
        if reason := attempts.unsendable(folder):
            bury(folder, f"{reason}; {each.note}" if each.note else reason)
        elif not (again == ("lost",) and "CANCELLED" in each.note):  # somebody meant it
            left.append(cell)
    ours = {job for jobs in of_study(order.workspace, order.study.name) for job in jobs.all}
    also = sorted({job.partition("_")[0] for job in queue} & ours - {os.environ.get("SLURM_JOB_ID", "")})
    jobs = submit.submit(order, left, close, also) if left else None
    return Launched(len(left), jobs, [each.state for _, each in found])


def _standings(order: Order) -> list[tuple[Cell, Standing]]:
    cells = expand(order.study)
    return list(zip(cells, standings(cells, order.workspace), strict=True))


def _make_way(folder: RunFolder, found: Standing, *, rerun: bool) -> None:
    """For another try of what failed; of everything that is not under way, where it was asked for."""
    if found.state == "failed" or (rerun and found.state == "done"):
        with atomic.locked(folder.lock, wait=False) as mine:
            if mine and rerun:
                folder.clear()
            elif mine:
                folder.forget_failure()


def _refuse_cuts(order: Order) -> None:
    for cell in expand(order.study):
        order.profiles[cell.arm].resources.check(cell.spec)


def end(name: str, place: Path, *, as_json: bool) -> None:
    """End the jobs of a study, those that tune its arms among them, or of a search. Runs keep their checkpoints."""
    workspace = Workspace(place)
    names = _names_of_jobs(name, workspace)
    with atomic.locked(workspace.slurm / "lock"):
        queue = slurm.queue()
        submit.forget_half_sent(workspace, queue)
        ours = {job for known in names for jobs in of_study(workspace, known) for job in jobs.all}
        ending = {job for job in queue if job.partition("_")[0] in ours}
        for launch in launches(workspace):
            for plan in launch.path.glob("*.json"):
                folder = workspace.run(plan.stem)
                if (sent := submission(folder)) and sent.job in ending:
                    folder.submission.unlink()
        slurm.cancel({job.partition("_")[0] for job in ending})
    if as_json:
        terminal.say_json({"name": names[0], "cancelled": sorted(ending)})
    else:
        terminal.say(f"{terminal.plural(len(ending), 'job')} cancelled")


def _names_of_jobs(name: str, workspace: Workspace) -> list[str]:
    """What the jobs of a search or a study were sent for: a study's may be those of the searches that tune its arms."""
    if search := searching.known_search(name, workspace):
        return [search.name]
    study = commands.find_planned(name, workspace)
    return [study.name, *(each.name for each in searches(study).values())] if study.tune else [study.name]


def tidy(place: Path, *, remove: bool, as_json: bool) -> None:
    """Show what no study needs, and remove it where that is asked for. Slurm is asked where jobs were ever sent from here."""
    workspace = Workspace(place)
    queued = {each.name for each in slurm.queue().values()} if launches(workspace) else set[str]()
    found = garbage.leftovers(workspace, queued)
    if remove:
        garbage.remove(found)
    terminal.show_garbage(found, remove, as_json)


def show_log(run: str, place: Path, *, follow: bool) -> None:
    """The log of the run whose id begins with `run`; with `follow`, also what is added until it has an outcome."""
    folder = commands.find_known(run, Workspace(place))
    sent = submission(folder)
    log = sent.log if sent else folder.log
    terminal.note(str(log))
    offset, over = 0, False
    while not over:
        over = not follow or folder.outcome() is not None
        text = log.read_bytes()[offset:] if log.exists() else b""
        offset += len(text)
        if text:
            terminal.say(text.decode(errors="replace").rstrip("\n"))
        if not over:
            time.sleep(POLL)
