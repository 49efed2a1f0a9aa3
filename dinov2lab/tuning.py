"""Tuning the arms of a study before it runs: a search for each place, side by side, at one and the same budget."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinov2lab import searching
from dinov2lab.searching import point_text
from dinov2lab.spec.cost import images_of_run
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Place, Study, expand
from dinov2lab.spec.tuning import searches
from dinov2lab.store import studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import best_trials, read_trials
from dinov2lab.terminal import note, plural, say, say_json, table

if TYPE_CHECKING:
    from dinov2lab.data.source import Roots
    from dinov2lab.lab.bench import Bench

ONCE = (
    "each arm is tuned once, for all seeds: the study's intervals will not hold how lucky that search was; with per: seed in "
    "tune: they would"
)


def tune_here(
    study: Study, workspace: Workspace, roots: "Roots", reports: Path, jobs: int, resources: Resources
) -> Study:
    """`tune` on this machine, `jobs` runs at a time."""
    if resources.processes > 1:
        raise ValueError("--nproc: an arm is tuned with one process a run; run without it until the arms are tuned")

    from dinov2lab.lab.bench import LocalBench

    bench = LocalBench(workspace, roots, resources, jobs)
    done = tune(study, workspace, roots, reports, lambda *_: bench, jobs)
    for cell in expand(done):
        resources.check(cell.spec)
    return done


def tune(
    study: Study,
    workspace: Workspace,
    roots: "Roots",
    reports: Path,
    bench: Callable[[Place, SearchSpec], "Bench"],
    jobs: int,
) -> Study:
    """`study` at what its searches found, of which nothing is left to do. The same call goes on.

    `jobs` runs go on at a time, as many in each search: so none of them asks with less known than another. With fewer than
    there are searches, each asks for one point after the other and repeats trial by trial. Raises ValueError where no trial
    of a search runs to its end.
    """
    if study.tune and study.tune.per == "arm":
        note(ONCE)
    places = {search.name: place for place, search in searches(study).items()}
    each, todo = max(1, jobs // len(places)), list[SearchSpec]()
    for place, search in searches(study).items():
        if searching.is_told(search, workspace, reports / search.name):
            _refuse_barren(place, search, workspace)
        else:
            note(f"{words(place)} is tuned first: {search.name}, {budget_text(search)}")
            todo.append(search)
    tell = [searching.telling(search, workspace.search(search.name), f"{search.name}   ") for search in todo]
    writer, written = ThreadPoolExecutor(1), list[Future[None]]()  # a report at a time, while other searches go on

    def ended(search: SearchSpec) -> None:
        written.append(writer.submit(searching.publish, search, workspace, reports, study.name))
        _refuse_barren(places[search.name], search, workspace)

    def follow() -> None:
        for told in tell:
            told()

    from dinov2lab.lab.search import run_searches

    try:
        run_searches(
            todo,
            workspace,
            roots,
            lambda search: bench(places[search.name], search),
            on_change=follow,
            on_trouble=searching.tell_trouble,
            on_end=ended,
            side_by_side=max(1, jobs // each),
            each=each,
        )
        for report in written:
            report.result()
    finally:
        writer.shutdown(cancel_futures=True)
    return _at_best(study, workspace)


def _at_best(study: Study, workspace: Workspace) -> Study:
    done = studies.tuned_here(study, workspace)
    assert done.tune
    assert not done.untuned
    for place in done.places:
        found = done.tune.found[str(place)]
        note(f"{words(place)}: {point_text(found.point)}, of {found.points} points the best on val; now fresh seeds")
    return done


def _refuse_barren(place: Place, search: SearchSpec, workspace: Workspace) -> None:
    trials = read_trials(workspace.search(search.name))
    if not best_trials(search, trials):
        reasons = [trial.reason for trial in trials if trial.state == "failed"]
        raise ValueError(
            f"{words(place)} cannot be tuned: no trial of {search.name} ran to its end"
            + (f" ({reasons[-1]})" if reasons else "")
        )


def words(place: Place) -> str:
    return f"arm {place.arm}" if place.seed is None else f"arm {place.arm}, seed {place.seed}"


def budget_text(search: SearchSpec) -> str:
    """What each search may cost, in words."""
    given = search.budget.model_dump(exclude_none=True)
    return " and ".join(plural(value, name.removesuffix("s")) for name, value in given.items())


def show_tuning(study: Study, workspace: Workspace, as_json: bool) -> None:
    """The searches that come before a study's runs, how far each is, what they may cost, and the runs under way."""
    rows = [_planned(place, search, workspace) for place, search in searches(study).items()]
    if as_json:
        say_json({"tune": rows})
        return
    budget = budget_text(next(iter(searches(study).values())))
    say(f"{study.name} has no runs before its arms are tuned, each search within {budget}")
    columns = ("arm", "search", "trials ended", "seeds", "images at most")
    lines = [
        (each["arm"], each["search"], f"{each['ended']}", ", ".join(map(str, each["seeds"])), f"{each['images']:,}")
        for each in rows
    ]
    table(columns, lines, right=("trials ended", "images at most"))
    for each in rows:
        for run in each["running"]:
            say(f"{each['search']}, {searching.running_text(run)}")


def _planned(place: Place, search: SearchSpec, workspace: Workspace) -> dict[str, Any]:
    trials = read_trials(workspace.search(search.name))
    ended = [trial for trial in trials if trial.state != "running"]
    most = search.budget.trials and search.budget.trials * images_of_run(search.base) * len(search.seeds)
    bounds = [bound for bound in (most, search.budget.images) if bound is not None]
    told = {"arm": place.arm, "seed": place.seed, "search": search.name, "ended": len(ended)}
    return told | {
        "seeds": search.seeds,
        "images": min(bounds),
        "running": searching.running(search, trials, workspace),
    }
