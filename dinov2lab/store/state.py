"""What a run has come to, read from its folder while it runs or afterwards. Imports no torch."""

import statistics
from typing import Any, Literal, NamedTuple

from dinov2lab.spec.run import RunSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

# queued: with Slurm; lost: was given to Slurm, which knows it no more, and has no outcome
State = Literal["done", "failed", "running", "waiting", "queued", "lost"]


class Follower:
    """The latest value of each name in a metrics.jsonl that grows; each `read` takes in what is new."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._offset = 0
        self._values: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        file = self._folder.metrics
        if not file.exists() or file.stat().st_size < self._offset:  # begun anew
            self._offset, self._values = 0, {}
        rows, self._offset = self._folder.rows_after(self._offset)
        for row in rows:
            self._values |= row
        return self._values


class Standing(NamedTuple):
    """Where a run stands; `values` are the latest of each name in its metrics.jsonl."""

    state: State
    values: dict[str, Any]
    outcome: RunResult | None
    note: str = ""  # what Slurm says to it


def standing(folder: RunFolder) -> Standing:
    outcome = folder.outcome()
    if atomic.held(folder.lock) and not (outcome and outcome.status == "finished"):
        return Standing("running", Follower(folder).read(), None)
    if outcome:
        return Standing("done" if outcome.status == "finished" else "failed", Follower(folder).read(), outcome)
    return Standing("waiting", Follower(folder).read(), None)


def seconds_left(spec: RunSpec, values: dict[str, Any]) -> float | None:
    """Of training, at the speed of the latest row."""
    speed = values.get("speed/images_per_second")
    return (spec.optim.steps * spec.optim.batch - values.get("images", 0)) / speed if speed else None


def flops_per_second(workspace: Workspace) -> float | None:
    """The median speed of the runs that finished here; None where there are none."""
    results = [RunFolder(file.parent).outcome() for file in sorted(workspace.runs.glob("*/result.json"))]
    costs = [result.cost for result in results if result and result.cost]
    speeds = [cost.flops / cost.seconds for cost in costs if cost.seconds > 0]
    return statistics.median(speeds) if speeds else None
