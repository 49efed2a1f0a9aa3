"""A curation as a chain of Slurm jobs: an array of shards for each round, then the job that merges them and decides.

A round begins when all shards of the one before have ended, however they did: what one has left undone, the last job does.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dinov2lab.data.source import Roots
from dinov2lab.lab import snapshot
from dinov2lab.lab.job import Job, curate_part, curate_whole
from dinov2lab.lab.submit import LARGEST, Part, all_or_none, dry_run, executor, plan_in, refuse, sent
from dinov2lab.spec.resources import Slurm
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.submission import Jobs, new_launch

ROUNDS = ("read", "embed", "search")  # images, vectors, near copies: each needs all of the one before


class Order(NamedTuple):
    name: str
    spec: RunSpec
    shards: int
    profile: Slurm
    workspace: Workspace
    roots: Roots


def parts(order: Order) -> list[Part]:
    profile, said = order.profile.alone, {"spec": order.spec.model_dump(mode="json"), "shards": order.shards}
    plan = plan_in(order.workspace, order.roots, order.profile) | said
    shards = {what: {f"{what}-{n}": plan | {"shard": n} for n in range(order.shards)} for what in ROUNDS}
    rounds = [Part(what, profile, Job(curate_part), plans) for what, plans in shards.items()]
    return [*rounds, Part("curate", profile, Job(curate_whole), {"curate": plan})]


def preview(order: Order) -> list[tuple[str, str]]:
    """(what, the text that sbatch would get) of each job. Writes nothing."""
    (launch, code), graph = dry_run(order.workspace, order.name), parts(order)
    before = [[], *([part.what.upper()] for part in graph)]
    return [
        (part.what, executor(part, launch, code, after).text(len(part.plans)))
        for part, after in zip(graph, before, strict=False)
    ]


def submit(order: Order) -> Sequence[str]:
    """Send all jobs, or, where sbatch would refuse one, none; returns their ids, an array's without indices."""
    if order.shards > LARGEST:
        raise ValueError(f"--shards {order.shards}: an array of Slurm holds at most {LARGEST}")
    launch, code = new_launch(order.workspace, order.name), snapshot.take(order.workspace)
    graph = parts(order)
    with all_or_none(graph, launch) as ids:
        for part in graph:
            refuse(part, launch, code)
        for part in graph:
            ids.append(sent(part, launch, code, ids[-1:])[0].job_id.partition("_")[0])
    jobs = Jobs(study=order.name, stages=None, arrays=tuple(ids[:-1]), report=ids[-1])
    launch.keep(jobs)
    return ids
