"""What `dinov2lab search` does and shows. Optuna, torch and their like are imported only where they are needed."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dinov2lab.commands import of_kind, run_study, verdict_of
from dinov2lab.lab.standing import standings
from dinov2lab.publisher import Publisher
from dinov2lab.spec.load import FOLDERS, find, kind_of
from dinov2lab.spec.load_search import load_search
from dinov2lab.spec.points import confirmation, runs_at
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Cell, Study
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, best_trials, has_run, is_concluded, read_trials, stored_search
from dinov2lab.terminal import metric, note, plural, say, say_json, show_verdict, table

if TYPE_CHECKING:
    from dinov2lab.data.source import Roots
    from dinov2lab.lab.bench import Bench
    from dinov2lab.lab.earlier import Fitting

SHOWN = 5  # trials
UNCONFIRMED = (
    "unconfirmed: the best of many looks better than it is; --confirm K trains the best K and the base with fresh seeds"
)
PUBLISH_SECONDS = 60.0  # between two reports while trials end


def find_search(name: str, overrides: Sequence[str], transfer: Sequence[str] = ()) -> SearchSpec:
    also = [f"transfer={json.dumps(list(transfer))}"] if transfer else []
    return load_search(of_kind(find(name, "search"), "search"), [*overrides, *also])


def known_search(name: str, workspace: Workspace) -> SearchSpec | None:
    """The search by that name or file as it ran last here, or as its file says; None where it is a study's, or nobody's."""
    file, study = FOLDERS["search"] / f"{name}.yaml", FOLDERS["study"] / f"{name}.yaml"
    if Path(name).is_file() or (file.is_file() and not study.is_file()):
        path = find(name)
        if kind_of(path) != "search":
            return None
        found = load_search(path)
        return stored_search(found.name, workspace) if has_run(found.name, workspace) else found
    taken = study.is_file() or workspace.study(name).is_file()
    return stored_search(name, workspace) if has_run(name, workspace) and not taken else None


def run_search(
    search: SearchSpec,
    workspace: Workspace,
    roots: "Roots",
    report: Path,
    bench: Callable[[], "Bench"],
    storage: str | None,
) -> tuple[Trial, ...]:
    """Work on a search until it has ended; returns its trials. Report and MLflow follow. What has ended is left alone."""
    folder = workspace.search(search.name)
    if is_told(search, workspace, report):
        return read_trials(folder)
    from dinov2lab.lab import search as lab

    with Publisher("search", search.name, workspace, report.parent) as publisher:
        lab.run_searches(
            [search],
            workspace,
            roots,
            lambda _: bench(),
            storage=storage,
            on_change=_following(search, folder, publisher),
            on_earlier=_tell_earlier,
            on_trouble=tell_trouble,
        )
        _finish(publisher)
    return read_trials(folder)


def is_told(search: SearchSpec, workspace: Workspace, report: Path) -> bool:
    """Whether it has come to its end, and its report says so."""
    page, folder = report / "index.html", workspace.search(search.name)
    told = is_concluded(search, folder) and page.exists()
    return told and page.stat().st_mtime >= (folder / "concluded").stat().st_mtime


def telling(search: SearchSpec, folder: Path, name: str = "") -> Callable[[], bool]:
    """What to call often: it tells of each trial that has ended since, behind `name`, and returns whether there was one."""
    known, file, seen = {trial.number for trial in _ended(folder)}, folder / "trials.json", None

    def tell() -> bool:
        nonlocal seen
        before, seen = seen, file.stat().st_mtime_ns if file.exists() else None
        if seen == before:
            return False
        fresh = [trial for trial in _ended(folder) if trial.number not in known]
        for trial in fresh:
            known.add(trial.number)
            note(name + trial_text(search, trial, read_trials(folder)))
        return bool(fresh)

    return tell


def tell_trouble(said: str) -> None:
    note(f"{said}; runs go on, and the search as soon as it gets an answer")


def _following(search: SearchSpec, folder: Path, publisher: Publisher) -> Callable[[], None]:
    """What to call often: it tells of each trial that has ended, and has the report written now and then."""
    tell, due, last = telling(search, folder), False, -math.inf

    def follow() -> None:
        nonlocal due, last
        due = tell() or due
        if due and time.monotonic() - last > PUBLISH_SECONDS and publisher.ask("report"):
            due, last = False, time.monotonic()

    return follow


def publish(search: SearchSpec, workspace: Workspace, reports: Path, asked_by: str | None = None) -> None:
    """Report and MLflow, from what there is. `asked_by`: the study whose arm it tunes."""
    with Publisher("search", search.name, workspace, reports, asked_by) as publisher:
        _finish(publisher)


def _finish(publisher: Publisher) -> None:
    if behind := publisher.finish():
        note(f"MLflow is behind, `dinov2lab sync` completes it: {behind}")


def _tell_earlier(found: "Sequence[Fitting]") -> None:
    for each in found:
        note(
            f"earlier: {each.fit} of the {plural(each.runs, 'finished run')} of {each.source} are points of this search"
        )


class Again(NamedTuple):
    """What is to be confirmed."""

    best: int  # so many trials; 0: nothing
    seeds: int


def search(
    found: SearchSpec,
    workspace: Workspace,
    data: Path,
    reports: Path,
    again: Again,
    here: tuple[int, Resources],
    *,
    storage: str | None,
    as_json: bool,
) -> int:
    """`search` on this machine, as many runs at a time as `here` says; the exit code.

    With `again`, the best trials and the base are trained with fresh seeds afterwards.
    """
    from dinov2lab.data.source import Roots

    roots, (jobs, resources) = Roots(data, workspace.cache), here

    def bench() -> "Bench":
        from dinov2lab.lab.bench import LocalBench

        return LocalBench(workspace, roots, resources, jobs)

    trials = run_search(found, workspace, roots, reports / found.name, bench, storage)
    if not (again.best and as_json):
        show_search(found, trials, reports / found.name, as_json)
    if not again.best:
        return code_of(trials)
    study = study_of_best(found, trials, again)
    report = reports / study.name
    failed = run_study(study, workspace, roots, report, jobs=jobs, resources=resources, rerun=False)
    publish(found, workspace, reports)
    if as_json:
        confirmed = {"study": study.name, "report": str(report), "verdict": verdict_of(report)}
        say_json(_plain(found, trials) | {"confirmed": confirmed})
    else:
        show_verdict(study, verdict_of(report), report, as_json)
    return 1 if failed else code_of(trials)


def study_of_best(search: SearchSpec, trials: Sequence[Trial], again: Again) -> Study:
    """The study that confirms the best trials. Raises ValueError where there is nothing to confirm."""
    points = {f"trial_{trial.number}": trial.point for trial in best_trials(search, trials)[: again.best]}
    return confirmation(search, points, again.seeds)


def code_of(trials: Sequence[Trial]) -> int:
    """The exit code of a search."""
    return int(not any(trial.state == "complete" for trial in trials))


def _ended(folder: Path) -> list[Trial]:
    return [trial for trial in read_trials(folder) if trial.state != "running"]


def trial_text(search: SearchSpec, trial: Trial, trials: Sequence[Trial]) -> str:
    """How a trial ended, and the best so far."""
    values = [metric(name, value) for name, value in zip(search.metrics, trial.values or (), strict=False)]
    reason = f": {trial.reason}" if trial.reason else ""
    best = best_trials(search, trials) if len(search.metrics) == 1 else []
    so_far = [f"best so far: trial {best[0].number}"] if best else []
    return "   ".join([f"trial {trial.number}", *values, f"{trial.state}{reason}", point_text(trial.point), *so_far])


def point_text(point: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in point.items()
    )


def _plain(search: SearchSpec, trials: Sequence[Trial]) -> dict[str, Any]:
    return {"search": search.name, "trials": [trial.model_dump(mode="json") for trial in trials]}


def show_search(search: SearchSpec, trials: Sequence[Trial], report: Path, as_json: bool) -> None:
    """The best trials; with several metrics, the front; and what they are worth."""
    if as_json:
        say_json(_plain(search, trials))
        return
    found = _show_trials(search, trials)
    say(UNCONFIRMED if found else "no trial ran to its end, so there is nothing to choose from")
    say(f"report  {report / 'index.html'}")


def _show_trials(search: SearchSpec, trials: Sequence[Trial]) -> bool:
    """Whether any has ended well."""
    say(search.question.strip() or search.name)
    lines = [
        (str(trial.number), *(f"{value:.4g}" for value in trial.values or ()), point_text(trial.point))
        for trial in best_trials(search, trials)[:SHOWN]
    ]
    if lines:
        table(("trial", *search.metrics, "point"), lines, right=("trial", *search.metrics))
    counts = Counter(trial.state for trial in trials)
    told = [plural(len(trials), "trial"), ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))]
    say(": ".join(filter(None, told)))
    return bool(lines)


def show_standing(search: SearchSpec, workspace: Workspace, as_json: bool) -> None:
    """How far a search is: what has come out, and the runs under way."""
    trials = read_trials(workspace.search(search.name))
    rows = running(search, trials, workspace)
    if as_json:
        say_json(_plain(search, trials) | {"running": rows})
        return
    _show_trials(search, trials)
    for row in rows:
        say(running_text(row))


def running(search: SearchSpec, trials: Sequence[Trial], workspace: Workspace) -> list[dict[str, Any]]:
    """The runs of trials that have not ended, but for those that have."""
    planned = [
        (trial.number, Cell(search.name, each.spec.seed, each.run, each.spec))
        for trial in trials
        if trial.state == "running"
        for each in runs_at(search, trial.point)
    ]
    found = standings([cell for _, cell in planned], workspace)
    return [
        {"trial": trial, "run": cell.run, "state": each.state, "note": each.note}
        for (trial, cell), each in zip(planned, found, strict=True)
        if each.state not in ("done", "failed")
    ]


def running_text(row: Mapping[str, Any]) -> str:
    said = f" ({row['note']})" if row["note"] else ""
    return f"trial {row['trial']}: run {row['run']} {row['state']}{said}"
