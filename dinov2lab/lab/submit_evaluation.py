"""The finished runs of a study measured on a cluster: a job for each. What they leave, `dinov2lab evaluate` reads."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dinov2lab.data.source import Roots
from dinov2lab.lab import snapshot
from dinov2lab.lab.job import Job, measure
from dinov2lab.lab.submit import LARGEST, Part, all_or_none, dry_run, executor, plan_in, refuse, sent
from dinov2lab.spec.resources import Slurm
from dinov2lab.store.folders import Workspace
from dinov2lab.store.submission import Jobs, new_launch


class Order(NamedTuple):
    study: str
    runs: Sequence[str]
    asked: Mapping[str, Any]  # on, memory, metrics: see lab/evaluate.py
    profile: Slurm
    workspace: Workspace
    roots: Roots


def parts(order: Order) -> list[Part]:
    profile = order.profile.alone
    plan = plan_in(order.workspace, order.roots, profile) | dict(order.asked)
    plans = {f"evaluate-{run}": plan | {"run": run} for run in order.runs}
    names = list(plans)
    cuts = [names[start : start + LARGEST] for start in range(0, len(names), LARGEST)]
    return [Part("evaluations", profile, Job(measure), {name: plans[name] for name in cut}) for cut in cuts]


def preview(order: Order) -> list[tuple[str, str]]:
    """(what, the text that sbatch would get) of each array. Writes nothing."""
    launch, code = dry_run(order.workspace, order.study)
    return [(part.what, executor(part, launch, code, []).text(len(part.plans))) for part in parts(order)]


def submit(order: Order) -> list[str]:
    """Send all, or, where sbatch would refuse them, nothing; returns the ids of the arrays. Raises SlurmError."""
    launch, code = new_launch(order.workspace, order.study), snapshot.take(order.workspace)
    graph = parts(order)
    with all_or_none(graph, launch) as ids:
        refuse(graph[0], launch, code)
        for part in graph:
            ids.append(sent(part, launch, code, [])[0].job_id.partition("_")[0])
    jobs = Jobs(study=order.study, stages=None, arrays=tuple(ids), report=None)
    launch.keep(jobs)
    return ids
