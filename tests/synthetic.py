"""A search without training: runs whose outcome is a formula of their spec, written to disk as real ones are."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinov2lab.spec.points import Planned
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import Cost, RunResult

BASE: dict[str, Any] = {
    "optim": {"steps": 400, "batch": 32, "lr": 1e-3, "warmup_steps": 0},
    "objective": {"koleo": {"group": 16}},
    "evaluation": {"every": 1600},
}
SPACE = {"optim.lr": {"log": [1e-5, 1e-1]}, "objective.teacher.temperature": {"linear": [0.01, 0.1]}}


def search(**own: Any) -> SearchSpec:
    plain = {"name": "s", "base": BASE, "space": SPACE, "metrics": {"val/knn": "maximize"}, "budget": {"trials": 12}}
    return SearchSpec.model_validate_json(json.dumps(plain | own))


def truth(spec: RunSpec) -> float:
    """The noiseless end of a run: best at a learning rate of 3e-3 and a temperature of 0.04, in a valley between the two."""
    rate = math.log10(spec.optim.lr / 3e-3)
    temperature = (spec.objective.teacher.temperature - 0.04) / 0.03
    return 0.9 - 0.05 * (rate - 0.5 * temperature) ** 2 - 0.08 * temperature**2


def noise(spec: RunSpec, size: float, salt: object = "") -> float:
    """Normal, a function of the run alone."""
    text = f"{spec.optim.lr}/{spec.objective.teacher.temperature}/{spec.seed}/{salt}"
    a, b = (int.from_bytes(hashlib.sha256(f"{text}/{part}".encode()).digest()[:6]) / 2**48 for part in "ab")
    return size * math.sqrt(-2 * math.log(1 - a)) * math.cos(2 * math.pi * b)


def curve(spec: RunSpec, size: float) -> list[tuple[int, float]]:
    """(images, val/knn) of each look: it rises towards the end's value, the faster the higher the learning rate."""
    every, total = spec.evaluation.every, spec.optim.steps * spec.optim.batch
    looks = [*range(every, total, every), total]
    speed = 2 + math.log10(spec.optim.lr / 1e-5)
    end = truth(spec) + noise(spec, size)
    return [(at, end - 0.5 * math.exp(-speed * at / total) + noise(spec, size / 2, at) * (at < total)) for at in looks]


class Bench:
    """Computes a run at once, or look by look where `paced`: a look at each `tend`."""

    def __init__(
        self,
        workspace: Workspace,
        jobs: int = 1,
        *,
        size: float = 0.01,
        paced: bool = False,
        fails: Callable[[RunSpec], str | None] = lambda _: None,
        rows: Callable[[RunSpec], list[dict[str, Any]]] | None = None,
    ) -> None:
        self.jobs, self._workspace, self._size, self._paced, self._fails = jobs, workspace, size, paced, fails
        self._rows = rows or self._looks
        self._left = dict[str, tuple[Planned, list[dict[str, Any]]]]()
        self.started: list[str] = []  # runs, each time that one was begun
        self.steps = 0  # rows written, in all

    def _looks(self, spec: RunSpec) -> list[dict[str, Any]]:
        batch = spec.optim.batch
        return [
            {
                "step": at // batch,
                "images": at,
                "time": 1,
                "val/knn": value,
                "speed/images_per_second": 100.0,
                "test/knn": 9.0,
            }
            for at, value in curve(spec, self._size)
        ]

    def free(self) -> bool:
        return len(self._left) < self.jobs

    def computes(self, run: str) -> bool:
        return run in self._left

    def start(self, planned: Planned) -> None:
        assert self.free()
        self.started.append(planned.run)
        had = len(self._workspace.run(planned.run).rows())
        self._left[planned.run] = (planned, self._rows(planned.spec)[had:])
        while not self._paced and planned.run in self._left:
            self._step(planned.run)

    def stop(self, run: str) -> None:
        self._left.pop(run, None)

    def tend(self) -> None:
        for run in list(self._left):
            self._step(run)

    def dismiss(self) -> None:
        self._left.clear()

    def _step(self, run: str) -> None:
        planned, rows = self._left[run]
        folder = self._workspace.run(run)
        folder.path.mkdir(parents=True, exist_ok=True)
        if rows:
            row = rows.pop(0)
            with folder.metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.steps += 1
        if not rows:
            folder.write_outcome(result_of(planned, folder.rows()[-1], self._fails(planned.spec)))
            del self._left[run]


def result_of(planned: Planned, last: dict[str, Any], error: str | None) -> RunResult:
    metrics = {name: value for name, value in last.items() if "/" in name}
    cost = Cost(images=last["images"], flops=last["images"] * 10**6, seconds=last["images"] / 100, peak_memory_mb=1.0)
    status: Any = "failed" if error else "finished"
    return RunResult(
        run=planned.run,
        status=status,
        metrics={} if error else metrics,
        cost=None if error else cost,
        code="c0de",
        error=error,
        finished_at=1.0,
    )


def workspace(folder: Path) -> Workspace:
    return Workspace(folder / "lab")
