"""Resources: the logistics of a run, which change none of its numbers beyond rounding; and what a job asks of Slurm."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dinov2lab.spec.section import Count, Positive, Section

if TYPE_CHECKING:
    from dinov2lab.spec.run import RunSpec

# What the backward pass computes again instead of keeping it. Hidden layers cost a tenth of the time.
Recompute = Literal["nothing", "hidden", "blocks"]
# What each process keeps but its share of, gathering the rest block by block: weights, their gradients and moments.
Shard = Literal["none", "weights"]


class Resources(Section):
    """Where and how a run is computed. Never part of the hash."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Count = 1  # that train one run, each on a device of its own and with its part of the batch
    threads: Count = 1  # of a process
    micro_batches: Count = 1  # parts of a process's batch that are computed one after the other, to save memory
    side_by_side: Count = 1  # parts of each of these that are computed at once, and share the threads
    recompute: Recompute = "nothing"
    shard: Shard = "none"  # among the processes; one alone has all
    # Processes that make views ahead of the step; with 0 the run makes them itself.
    workers: Annotated[int, Field(ge=0)] = 0
    search: Literal["auto", "exact", "ivf", "faiss_flat", "faiss_ivf", "faiss_ivfpq"] = "auto"  # see curation/index.py
    memory_gb: Positive = 8.0  # that the vectors of a search may take; beyond, their codes
    checkpoint_seconds: Positive = 30.0
    checkpoints: Count = 1  # that are kept, the latest; of weights that are cut the last alone

    @property
    def parts(self) -> int:
        """Of a process's batch."""
        return self.micro_batches * self.side_by_side

    def check(self, spec: "RunSpec") -> None:
        """Raises ValueError where a process or a part would cut a KoLeo group, an image or a crop, or shards forbid parts."""
        if self.shard != "none" and self.side_by_side > 1:
            raise ValueError(
                f"--side-by-side {self.side_by_side}: parts at once do not go with --shard {self.shard}; --micro-batches do"
            )
        koleo, batch = spec.objective.koleo, spec.optim.batch
        group = koleo.group if koleo.weight else 1
        if (batch // group) % self.processes:
            of_what = f"KoLeo groups of {group} images" if koleo.weight else "images"
            raise ValueError(
                f"{self.processes} processes would cut one of the {batch // group} {of_what} of a batch;"
                f" as many processes as do not: {_divisors(batch // group)}"
            )
        whole = 2 * batch // group // self.processes
        if whole % self.parts:
            of_what = f"KoLeo groups of {group}" if koleo.weight else "crops"
            raise ValueError(
                f"--micro-batches {self.micro_batches} x --side-by-side {self.side_by_side} would cut one of the {whole}"
                f" {of_what} global crops of a batch; as many parts as do not: {_divisors(whole)}"
            )


def _divisors(whole: int) -> str:
    return ", ".join(str(count) for count in range(1, whole + 1) if whole % count == 0)


# What the launcher itself says to sbatch, and where a profile says the rest of it.
OURS = ("array", "dependency", "error", "job-name", "open-mode", "output", "parsable", "requeue", "signal", "wait")
FIELDS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "nodes": "nodes",
    "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus",
    "mem": "memory_gb",
    "time": "hours",
    "ntasks-per-node": "tasks_per_node",
}


def _one_line(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("is empty, or no single line of printable characters")
    return text


Word = Annotated[str, AfterValidator(_one_line)]


def _options(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
            raise ValueError(f"{name!r} is no long option of sbatch, such as mail-type")
        if name in OURS:
            raise ValueError(f"--{name} is what the launcher decides")
        if name in FIELDS:
            raise ValueError(f"--{name} is the profile's own key {FIELDS[name]}")
        if value is not True and not (isinstance(value, str | int | float) and value is not False):
            raise ValueError(f"--{name} wants a word or a number, or true where it takes none")
        if isinstance(value, str) and not (value and value.isprintable()):
            raise ValueError(f"--{name} is empty, or no single line of printable characters")
    return options


class Slurm(Section):
    """A profile, experiments/slurm/*.yaml: what one job asks for. Never part of the hash."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    nodes: Count = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    tasks_per_node: Count | None = None  # processes that train one run; without it one for each GPU, or one
    cpus: Count = 1  # of a process: on CPU its threads; beside a GPU one trains and the others make views
    memory_gb: Positive | None = None
    hours: Positive = 24.0
    shard: Shard = "none"  # among the processes of a run
    checkpoints: Count = 1  # of a run that are kept, the latest
    micro_batches: Count = 1  # of each process's batch, one after the other
    recompute: Recompute = "nothing"
    parallel: Count = 256  # runs of one array at a time
    signal_seconds: Count = 120  # before the limit: time to write a checkpoint and to ask to be queued again
    setup: tuple[Word, ...] = ()  # lines of shell before the run
    sbatch: Annotated[dict[str, Any], AfterValidator(_options)] = Field(
        default={}
    )  # any further option of sbatch by its own name

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        if self.signal_seconds > self.hours * 3600 * 0.75:
            raise ValueError(f"signal_seconds {self.signal_seconds} leaves a job of hours {self.hours} too little")
        if self.gpus_per_node and self.tasks != self.gpus_per_node:
            raise ValueError(f"tasks_per_node {self.tasks} must be gpus_per_node {self.gpus_per_node}, a GPU each")
        if self.shard != "none" and self.nodes * self.tasks == 1:
            raise ValueError(f"shard {self.shard} cuts among the processes of a run, and this profile has one")
        return self

    @property
    def tasks(self) -> int:
        """On each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def alone(self) -> Self:
        """For what one process does."""
        gpus = min(1, self.gpus_per_node)
        return self.model_copy(update={"nodes": 1, "tasks_per_node": None, "gpus_per_node": gpus})

    @property
    def resources(self) -> Resources:
        gpu = self.gpus_per_node > 0
        return Resources(
            device="cuda" if gpu else "cpu",
            processes=self.nodes * self.tasks,
            threads=self.cpus,
            workers=self.cpus - 1 if gpu else 0,
            micro_batches=self.micro_batches,
            recompute=self.recompute,
            shard=self.shard,
            checkpoints=self.checkpoints,
        )
