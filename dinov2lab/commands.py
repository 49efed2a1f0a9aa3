"""What the commands do. Imported by the command that is called; torch and its like only where they are needed."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dinov2lab.lab.devices import cores as usable_cores
from dinov2lab.lab.devices import free_gpus, multiplies_bf16
from dinov2lab.lab.plan import is_finished
from dinov2lab.progress import watching
from dinov2lab.publisher import Publisher, watched, write
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import FOLDERS, SpecError, find, kind_of, load_recipe, load_study
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.resources import Recompute, Resources, Shard
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store import atomic, studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.reading import read_json
from dinov2lab.store.result import RunFolder, RunResult
from dinov2lab.terminal import note, plural, say, say_json, show_verdict

if TYPE_CHECKING:
    from dinov2lab.data.source import Roots

Device = Literal["auto", "cpu", "cuda"]
WATCH_SECONDS = 10  # between two looks of `report --watch`
MIRROR_SECONDS = 60.0  # between two looks of MLflow at runs that go on


class Places(NamedTuple):
    workspace: Workspace
    data: Path
    reports: Path


class Share(NamedTuple):
    """What `run` may use of a machine and how a run is cut, by the names of its options."""

    jobs: int | None = None
    device: Device = "auto"
    nproc: int = 1
    micro_batches: int = 1
    side_by_side: int = 1
    recompute: Recompute = "nothing"
    shard: Shard = "none"
    checkpoints: int = 1


THE_USUAL = Share()


def find_study(name: str, workspace: Workspace) -> Study:
    """As `find_planned`, of a study that has runs: its arms are tuned, where they are to be. Raises ValueError."""
    study = find_planned(name, workspace)
    if study.untuned:
        raise ValueError(f"study {study.name} has no runs before its arms are tuned: dinov2lab run {name}")
    return study


def find_planned(name: str, workspace: Workspace) -> Study:
    """A study by its file or name, also one that ran here under a name of its own (with --set)."""
    in_file = Path(name).is_file() or (FOLDERS["study"] / f"{name}.yaml").is_file()
    if not in_file and (last := studies.stored(name, workspace)):
        return last
    return studies.as_it_stands(load_study(of_kind(find(name, "study"), "study")), workspace)


def find_recipe(name: str, overrides: Sequence[str]) -> RunSpec:
    return load_recipe(of_kind(find(name, "recipe"), "recipe"), overrides)


def of_kind(path: Path, kind: str) -> Path:
    if (other := kind_of(path)) != kind:
        use = f"; dinov2lab search {path}" if other == "search" else ""
        raise SpecError(f"{path}: is a {other}, and a {kind} is wanted{use}")
    return path


def find_either(name: str, overrides: Sequence[str], workspace: Workspace) -> Study | Cell:
    """A study, or a recipe as a run that belongs to no arm."""
    path = find(name)
    if kind_of(path) == "study":
        return studies.as_it_stands(load_study(path, overrides), workspace)
    spec = load_recipe(of_kind(path, "recipe"), overrides)
    return Cell("", spec.seed, run_id(spec), spec)


def with_more_seeds(found: Study | Cell, count: int, workspace: Workspace) -> Study:
    """The study after a look at the seeds that it has, and before one at `count` more. Raises ValueError."""
    if not isinstance(found, Study):
        raise ValueError("--more-seeds: is for a study; a recipe has one seed, and `--set seed=1` is another run")
    if found.untuned or not studies.finished(found.seeds, found, workspace):
        raise ValueError(f"--more-seeds: study {found.name} has runs that have not ended; run it without, first")
    return found.with_more_seeds(count)


def find_run(name: str, workspace: Workspace) -> RunFolder:
    """The folder of the finished run whose id is `name`, or alone begins with it."""
    folder = find_begun(name, workspace)
    if not folder.result.exists():
        outcome = folder.outcome()
        why = f"failed: {outcome.error}" if outcome else "has not finished"
        raise SpecError(f"run {folder.path.name} {why}")
    return folder


def find_begun(name: str, workspace: Workspace) -> RunFolder:
    """The folder of the run, ended or not, whose id is `name`, or alone begins with it."""
    folder = find_known(name, workspace)
    if not folder.spec.exists():
        raise SpecError(f"run {folder.path.name} has not begun")
    return folder


def find_known(name: str, workspace: Workspace) -> RunFolder:
    """The folder of the run, begun or sent to a cluster, whose id is `name`, or alone begins with it."""
    files = (file for mark in ("spec.json", "submission.json") for file in workspace.runs.glob(f"*/{mark}"))
    known = sorted({file.parent.name for file in files})
    matching = [run for run in known if run == name] or [run for run in known if run.startswith(name)]
    if not matching:
        there = did_you_mean(name, known) or (f"; there are {len(known)}" if known else "; there is none")
        raise SpecError(f"no run in {workspace.path} is called {name!r}{there}")
    if len(matching) > 1:
        raise SpecError(f"{name!r} may be {' or '.join(matching)}")
    return workspace.run(matching[0])


def resources_for(jobs: int | None, device: Device, processes: int = 1) -> tuple[int, Resources]:
    """How many runs at a time, and what each of them gets. Raises ValueError where there are too few GPUs."""
    cores = usable_cores()
    gpu = device == "cuda" or (device == "auto" and Path("/dev/nvidiactl").exists())
    if gpu and processes > 1 and processes > (there := len(free_gpus())):
        raise ValueError(f"--nproc {processes}: each process wants a GPU of its own, and {there} are free")
    jobs = jobs or max(1, (len(free_gpus()) if gpu else cores) // processes)
    # One thread each: on small networks a second one costs more than it brings, and on a busy machine it waits for the first.
    each = max(1, cores // (jobs * processes))
    return jobs, Resources(device=device, processes=processes, threads=each if gpu else 1, workers=each - 1)


def refuse_slurm_words(*words: Sequence[str] | None) -> None:
    """Raise ValueError for options of a cluster, on this machine."""
    if any(words):
        raise ValueError("--profile and --slurm are for --launcher slurm")


def refuse(why: str, **given: object) -> None:
    """Raise ValueError for options that were given, which do nothing here: `given` is true of them, under Python's names."""
    if named := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]:
        raise ValueError(f"{', '.join(named)}: {why}")


def in_parts(resources: Resources, share: Share, cells: Sequence[Cell]) -> Resources:
    """`resources` with a batch in parts, and weights cut. Raises ValueError where that does not go with one of the runs."""
    changes = {name: getattr(share, name) for name in ("micro_batches", "side_by_side", "recompute", "shard")}
    threads = max(resources.threads, share.side_by_side)
    cut = resources.model_copy(update=changes | {"threads": threads, "checkpoints": share.checkpoints})
    if share.shard != "none" and resources.processes == 1:
        raise ValueError(f"--shard {share.shard} cuts among processes, and there is one; --nproc 2, for example")
    for cell in cells:
        cut.check(cell.spec)
    return cut


def verdict_of(report: Path) -> list[dict[str, Any]]:
    """The rows of verdict.json in the folder of a study's report."""
    rows: list[dict[str, Any]] = read_json(report / "verdict.json")
    return rows


def run_study(
    study: Study,
    workspace: Workspace,
    roots: "Roots",
    report: Path,
    *,
    jobs: int,
    resources: Resources,
    rerun: bool,
) -> int:
    """Bring runs, report and MLflow up to date; returns how many runs failed. A finished study is left alone."""
    cells = expand(study)
    if not rerun and is_finished(study, workspace, report):
        _name_stale(cells, workspace, roots, study.name)
        return 0
    from dinov2lab.lab import launch, opening

    for line in opening.check(cells, roots):
        note(line)
    _name_imitation(cells, resources)
    studies.record(study, workspace)
    with Publisher("study", study.name, workspace, report.parent) as publisher:
        follow = _following([workspace.run(cell.run) for cell in cells], publisher)
        with watching(cells, workspace, study.metrics):
            failed = launch.run_study(
                study,
                workspace,
                roots,
                jobs=jobs,
                resources=resources,
                rerun=rerun,
                on_change=follow,
            )
        if behind := publisher.finish():
            note(f"MLflow is behind, `dinov2lab sync` completes it: {behind}")
    return failed


def _name_imitation(cells: Sequence[Cell], resources: Resources) -> None:
    """Products that no part of this machine does itself."""
    on_cpu = resources.device == "cpu" or not free_gpus()
    if any(cell.spec.optim.precision == "bf16" for cell in cells) and on_cpu and not multiplies_bf16():
        note(
            "optim.precision bf16: this processor does not multiply in it and imitates it, many times slower; "
            "--set optim.precision=fp32 asks the same of other runs"
        )


def _following(folders: Sequence[RunFolder], publisher: Publisher) -> Callable[[], None]:
    """What to call often: it has the report written when a run has ended, and MLflow updated while none does."""

    def outcomes() -> set[Path]:
        return {file for folder in folders for file in (folder.result, folder.failure) if file.exists()}

    known, last = outcomes(), -math.inf

    def follow() -> None:
        nonlocal known, last
        fresh = outcomes() - known
        if not (fresh or time.monotonic() - last > MIRROR_SECONDS):
            return
        if publisher.ask("report" if fresh else "mirror"):
            known, last = known | fresh, time.monotonic()

    return follow


def run_recipe(cell: Cell, workspace: Workspace, roots: "Roots", resources: Resources, *, rerun: bool) -> RunResult:
    """Compute one run, unless it has a result."""
    folder = workspace.run(cell.run)
    outcome = folder.outcome()
    if outcome and outcome.status == "finished" and not rerun:
        _name_stale([cell], workspace, roots, cell.run)
        return outcome
    if rerun:
        with atomic.locked(folder.lock, wait=False) as mine:
            if not mine:
                raise ValueError(f"run {cell.run} is being computed by another process")
            folder.clear()
    from dinov2lab.lab.execute import execute
    from dinov2lab.lab.team import Lost, team_of

    _name_imitation([cell], resources)
    with watching([cell], workspace, ("test/knn",)), team_of(resources.processes) as team:
        while True:
            try:
                result: RunResult = execute(cell.spec, workspace, roots, resources, team=team)
                return result
            except Lost as error:
                note(f"{error}; once more, from the last checkpoint")


def _name_stale(cells: Sequence[Cell], workspace: Workspace, roots: "Roots", name: str) -> None:
    """Images that have changed since, and those that were not there then and are now."""
    from dinov2lab.lab.stale import come_since, stale_sources

    found = [outcome for cell in cells if (outcome := workspace.run(cell.run).outcome())]
    for line in stale_sources(found, roots):
        note(line)
    for uri in come_since(found, roots):
        note(f"{uri} was not there and is now: dinov2lab evaluate {name} --skipped")


def report(
    found: Sequence[Study], workspace: Workspace, reports: Path, *, pool: bool, watch: bool, as_json: bool
) -> None:
    """Write and show the report of a study, or the comparison of several."""
    if len(found) > 1:
        if pool or watch:
            raise ValueError("--pool and --watch are for the report of one study")
        from dinov2lab.report.compare import write_comparison

        page = write_comparison(found, workspace, reports / "+".join(study.name for study in found))
        if as_json:
            say_json({"studies": [study.name for study in found], "report": str(page)})
        else:
            say(f"report  {page}")
        return
    study, folder = found[0], reports / found[0].name
    if watch:
        for ended in watched(study, workspace, folder, pool=pool, seconds=WATCH_SECONDS):
            note(f"{ended} of {plural(len(study.arms) * len(study.seeds), 'run')} ended: {folder / 'index.html'}")
    else:
        write(study, workspace, folder, pool=pool)
    show_verdict(study, verdict_of(folder), folder, as_json)
