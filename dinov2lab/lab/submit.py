"""A study as a graph of Slurm jobs: the curation that runs share, an array of runs for each profile, then the report."""

import json
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import submitit

from dinov2lab.data.source import Roots
from dinov2lab.lab import slurm, snapshot
from dinov2lab.lab.job import Job, stages, train
from dinov2lab.spec.resources import Slurm
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell, Study
from dinov2lab.store import atomic, attempts
from dinov2lab.store.folders import Workspace
from dinov2lab.store.submission import Jobs, Launch, launches, new_launch, record, submission

FOR_EVER = 10**6  # timeouts that submitit would count; ours are counted by what they achieved
LARGEST = 1000  # jobs of an array, by Slurm's default
KEPT = ("SLURM_CONF", "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_CONSTRAINT", "SBATCH_RESERVATION")
REPORT = {"nodes": 1, "tasks_per_node": None, "gpus_per_node": 0, "cpus": 1, "memory_gb": 4.0, "hours": 1.0}


class Order(NamedTuple):
    """What a launch is about. Paths are absolute: a job may begin elsewhere."""

    study: Study
    profiles: Mapping[str, Slurm]  # of each arm
    workspace: Workspace
    roots: Roots
    reports: Path


class Part(NamedTuple):
    """A job, or an array of as many jobs as there are plans."""

    what: str
    profile: Slurm
    call: Callable[[str], str]
    plans: dict[str, dict[str, Any]]  # name -> content


def parts(order: Order, cells: Sequence[Cell], closing: Callable[[str], str]) -> list[Part]:
    """In the order in which they are submitted; the runs of an array seed by seed."""
    groups = dict[str, list[Cell]]()
    for cell in cells:
        groups.setdefault(order.profiles[cell.arm].model_dump_json(), []).append(cell)
    whole = [each[start : start + LARGEST] for each in groups.values() for start in range(0, len(each), LARGEST)]
    runs = [_runs(order, each) for each in whole]
    first = order.profiles[order.study.baseline]
    curation = {
        json.dumps([spec.curation.model_dump(mode="json"), spec.data.train, spec.seed, spec.replicate]): spec
        for spec in (cell.spec for cell in cells)
        if spec.curation is not None
    }
    specs = {"specs": [spec.model_dump(mode="json") for spec in curation.values()]}
    plan = plan_in(order.workspace, order.roots, first.alone) | specs
    shared = [Part("stages", first.alone, Job(stages), {"stages": plan})] if curation else []
    last = first.model_copy(update=REPORT)
    return [*shared, *runs, Part("report", last, closing, {"report": _report_plan(order)})]


def _runs(order: Order, cells: Sequence[Cell]) -> Part:
    profile = order.profiles[cells[0].arm]
    plans = {cell.run: _plan_of_run(cell.run, cell.spec, profile, order.workspace, order.roots) for cell in cells}
    return Part("runs", profile, Job(train), plans)


def part_of_run(run: str, spec: RunSpec, profile: Slurm, workspace: Workspace, roots: Roots) -> Part:
    """One run that is a job of its own."""
    return Part("runs", profile, Job(train), {run: _plan_of_run(run, spec, profile, workspace, roots)})


def _plan_of_run(run: str, spec: RunSpec, profile: Slurm, workspace: Workspace, roots: Roots) -> dict[str, Any]:
    said = {"spec": spec.model_dump(mode="json"), "submission": str(workspace.run(run).submission.resolve())}
    return plan_in(workspace, roots, profile) | said


def _places(workspace: Workspace, roots: Roots) -> dict[str, str]:
    where = {"workspace": workspace.path, "data": roots.data, "cache": roots.cache}
    return {name: str(path.resolve()) for name, path in where.items()}


def plan_in(workspace: Workspace, roots: Roots, profile: Slurm) -> dict[str, Any]:
    """What every job is told: where it works, with what, and how early it is warned."""
    with_what = {"resources": profile.resources.model_dump(), "signal_seconds": profile.signal_seconds}
    return _places(workspace, roots) | with_what


def _report_plan(order: Order) -> dict[str, Any]:
    profiles = {arm: profile.model_dump(mode="json") for arm, profile in order.profiles.items()}
    study = order.study.model_dump(mode="json")
    return _places(order.workspace, order.roots) | {
        "study": study,
        "profiles": profiles,
        "reports": str(order.reports.resolve()),
    }


def read_order(plan: Path) -> Order:
    """From the plan of a report."""
    said = json.loads(plan.read_bytes())
    return Order(
        Study.model_validate_json(json.dumps(said["study"])),
        {arm: Slurm.model_validate_json(json.dumps(profile)) for arm, profile in said["profiles"].items()},
        Workspace(Path(said["workspace"])),
        Roots(Path(said["data"]), Path(said["cache"])),
        Path(said["reports"]),
    )


def dry_run(workspace: Workspace, name: str) -> tuple[Launch, Path]:
    """A launch, and the code of its jobs, that never are."""
    return Launch(workspace.slurm / f"{name}.DRY-RUN"), workspace.snapshots.resolve() / "SNAPSHOT"


def preview(order: Order, cells: Sequence[Cell], closing: Callable[[str], str]) -> list[tuple[str, str]]:
    """(what, the text that sbatch would get) of each job. Writes nothing."""
    launch, code = dry_run(order.workspace, order.study.name)
    shown, before = [], list[str]()
    for part in parts(order, cells, closing):
        shown.append((part.what, executor(part, launch, code, before).text(len(part.plans))))
        before = [*before, part.what.upper()] if part.what != "runs" or "STAGES" not in before else ["STAGES", "RUNS"]
    return shown


def submit(order: Order, cells: Sequence[Cell], closing: Callable[[str], str], also: Sequence[str] = ()) -> Jobs:
    """Send the jobs of `cells`; the report waits for `also` too, jobs of the study that are in the queue already.

    Nothing is sent where sbatch would refuse any part of it. Raises SlurmError.
    """
    launch, code = new_launch(order.workspace, order.study.name), snapshot.take(order.workspace)
    graph = parts(order, cells, closing)
    sent: dict[str, list[str]] = {"stages": [], "runs": [], "report": []}
    with all_or_none(graph, launch) as ids:
        for part in graph:
            refuse(part, launch, code)
        for part in graph:
            after = sent["stages"] if part.what == "runs" else [*sent["stages"], *sent["runs"], *also]
            found = _send(part, order.workspace, launch, code, after if part.what != "stages" else [])
            sent[part.what] += found
            ids += found
    jobs = Jobs(
        study=order.study.name,
        stages=next(iter(sent["stages"]), None),
        arrays=tuple(sent["runs"]),
        report=sent["report"][0],
    )
    launch.keep(jobs)
    return jobs


@contextmanager
def all_or_none(graph: Sequence[Part], launch: Launch) -> Iterator[list[str]]:
    """Inside, with its plans written, the jobs of `graph` are sent and their ids listed; an error takes all of it back."""
    ids = list[str]()
    for part in graph:
        for name, plan in part.plans.items():
            atomic.write_json(launch.path / f"{name}.json", plan)
    try:
        yield ids
    except BaseException:
        slurm.cancel(ids)
        launch.forget()
        raise


def refuse_run(name: str, part: Part, workspace: Workspace, code: Path) -> None:
    """Raise SlurmError where sbatch would not take such a job. Leaves nothing."""
    launch = new_launch(workspace, name)
    launch.path.mkdir(parents=True)
    try:
        refuse(part, launch, code)
    finally:
        launch.forget()


def send_run(name: str, part: Part, workspace: Workspace, code: Path) -> str:
    """Submit the job of one run for the search `name`; returns its id. Raises SlurmError."""
    launch = new_launch(workspace, name)
    with all_or_none([part], launch):
        (job,) = _send(part, workspace, launch, code, [])
    jobs = Jobs(study=name, stages=None, arrays=(job,), report=None)
    launch.keep(jobs)
    return job


def forget_half_sent(workspace: Workspace, queue: Mapping[str, slurm.Queued]) -> None:
    """A launcher that was killed while it submitted may have left jobs whose ids nobody wrote down; their name tells them."""
    for launch in launches(workspace):
        if launch.jobs() is None:
            slurm.cancel({job.partition("_")[0] for job, each in queue.items() if each.name == launch.name})
            for run in launch.path.glob("*.json"):
                folder = workspace.run(run.stem)
                if (sent := submission(folder)) and sent.launch == launch.name:
                    folder.submission.unlink()
            launch.forget()


def refuse_paths(*paths: Path) -> None:
    for path in paths:
        text = str(path.resolve())
        if not text.isprintable() or "%" in text or "\\" in text:
            raise ValueError(
                f"{text!r}: Slurm reads % and \\ in the paths of its logs as patterns; choose another folder"
            )


def refuse(part: Part, launch: Launch, code: Path) -> None:
    """Raises SlurmError where sbatch would not take this part."""
    script = launch.path / f"{part.what}.test"
    script.write_text(executor(part, launch, code, []).text(len(part.plans)), encoding="utf-8")
    refusal = slurm.refusal(script)
    script.unlink()
    if refusal is not None:
        raise slurm.SlurmError(f"{refusal}; nothing was submitted")


def _send(part: Part, workspace: Workspace, launch: Launch, code: Path, after: Sequence[str]) -> list[str]:
    """Submit, and write down for each run the job that computes it; returns the ids, an array's without indices."""
    jobs = sent(part, launch, code, after)
    if part.what == "runs":
        for name, job in zip(part.plans, jobs, strict=True):
            folder = workspace.run(name)
            attempts.note(folder, "submitted")
            record(folder, job.job_id, launch, Path(job.paths.stderr))
    return sorted({job.job_id.partition("_")[0] for job in jobs})


def sent(part: Part, launch: Launch, code: Path, after: Sequence[str]) -> Sequence[submitit.Job[Any]]:
    """Submit a part whose plans are written. Raises SlurmError."""
    plans = [str((launch.path / f"{name}.json").resolve()) for name in part.plans]
    try:
        with _own_environment():
            jobs: Sequence[submitit.Job[Any]] = executor(part, launch, code, after).map_array(part.call, plans)
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise slurm.SlurmError(f"sbatch: {str(error).strip().splitlines()[0]}") from error
    return jobs


@contextmanager
def _own_environment() -> Iterator[None]:
    """Without what an enclosing job was given, which would bind ours to its cores; with what people set for themselves."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with submitit.helpers.clean_env():
        os.environ.update(kept)
        try:
            yield
        finally:
            for name in kept:
                del os.environ[name]  # it comes back with all the others


class _Executor(submitit.SlurmExecutor):  # type: ignore[misc]  # submitit has no types
    """submitit's, which can show its script, also where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def text(self, count: int) -> str:
        other = _Executor(self.folder)
        other.parameters = {**self.parameters, **({"map_count": count} if count > 1 else {})}
        return str(other._make_submission_file_text(self._submitit_command_str, ""))


def executor(part: Part, launch: Launch, code: Path, after: Sequence[str]) -> _Executor:
    profile = part.profile
    executor = _Executor(launch.path.resolve(), max_num_timeout=FOR_EVER)
    asked: dict[str, Any] = {
        "job_name": launch.name,
        "time": math.ceil(profile.hours * 60),
        "nodes": profile.nodes,
        "ntasks_per_node": profile.tasks,
        "cpus_per_task": profile.cpus,
        "gpus_per_node": profile.gpus_per_node or None,
        "mem": f"{math.ceil(profile.memory_gb * 1024)}M" if profile.memory_gb else None,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "array_parallelism": profile.parallel,
        "signal_delay_s": profile.signal_seconds,
        "dependency": "afterany:" + ":".join(after) if after else None,
        "wckey": None,
        # PYTHONSAFEPATH: a package in the folder where it was submitted would come before the snapshot
        "setup": [
            *profile.setup,
            f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        ],
        # The environment also where the cluster's default is none of it; a process that dies takes the others with it.
        "srun_args": ["--export=ALL", "--kill-on-bad-exit=1", f"--cpus-per-task={profile.cpus}"],
        "additional_parameters": {"requeue": True, **profile.sbatch},
    }
    executor.update_parameters(**asked)
    return executor
