"""Run folders as a real run leaves them, written through the types of store/. For tests of what reads them."""

import json
import random
from pathlib import Path

from dinov2lab.spec.curation import CurationSpec, Sample
from dinov2lab.spec.run import DataSpec, OptimSpec, RunSpec
from dinov2lab.spec.study import Arm, Cell, Decide, Study
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import Manifest
from dinov2lab.store.result import Cost, RunResult

BEGAN = 1_790_000_000_000  # ms
BATCH, LOG_EVERY = 64, 10
DENSE = ("loss/total", "loss/dino_global", "loss/dino_local", "loss/ibot", "loss/koleo", "optim/lr", "teacher/momentum")
MANIFEST = "0123456789ab"


def study(name: str = "curation", arms: tuple[str, ...] = ("uncurated", "retrieved"), seeds: int = 2) -> Study:
    """Arms that differ in the number of images sampled."""

    def arm(index: int, arm_name: str) -> Arm:
        curation = CurationSpec(stages=(Sample(stage="sample", images=100 + index),))
        optim = OptimSpec(batch=BATCH, steps=400, warmup_steps=10)
        return Arm(name=arm_name, spec=RunSpec(data=DataSpec(train="toyweb:pool"), curation=curation, optim=optim))

    return Study(
        name=name,
        question="Is a curated set better than the same number of uncurated images?",
        factor=("curation",),
        baseline=arms[0],
        arms=tuple(arm(index, arm_name) for index, arm_name in enumerate(arms)),
        seeds=tuple(range(seeds)),
        metrics=("test/knn", "test/linear"),
        decide=Decide(metric="test/knn"),
    )


def rows(cell: Cell, count: int, first: int = 0) -> list[dict[str, float]]:
    """Rows `first`, ..., `count - 1` of a run's metrics.jsonl."""
    made = []
    for index in range(first, count):
        noise = random.Random(f"{cell.run}/{index}")
        step = (index + 1) * LOG_EVERY
        row: dict[str, float] = {"step": step, "images": step * BATCH, "time": BEGAN + cell.seed * 10**6 + 750 * index}
        row |= {name: 4 / (1 + index / 9) + noise.uniform(0, 0.2) for name in DENSE}
        if index % 8 == 7:
            row |= {
                "val/knn": 0.3 + 0.3 * index / count + noise.uniform(0, 0.02),
                "health/rankme": noise.uniform(9, 10),
            }
        made.append(row)
    return made


def append(workspace: Workspace, cell: Cell, lines: list[dict[str, float]]) -> None:
    with workspace.run(cell.run).metrics.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def start(workspace: Workspace, cell: Cell, count: int = 40) -> None:
    """A run that has begun and written `count` rows; nobody holds its lock."""
    folder = workspace.run(cell.run)
    atomic.write_text(folder.spec, cell.spec.model_dump_json())
    atomic.write_json(
        folder.provenance,
        {
            "started_at": BEGAN / 1000 + cell.seed * 1000 - 5,
            "commit": "c0ffee" * 6 + "abcd",
            "code": "5eed5eed5eed",
            "versions": {"torch": "2.15.0"},
            "resources": {"device": "cpu", "threads": 1},
            "manifest_folder": f"cache/manifests/{cell.arm}",
            "sources": {"toyweb:pool": "feedfeed"},
        },
    )
    manifest = Manifest(id=f"{MANIFEST}{cell.arm}", parent=None, stage="sample", parameters={}, rows=100, dropped={})
    atomic.write_text(workspace.cache / "manifests" / cell.arm / "manifest.json", manifest.model_dump_json())
    append(workspace, cell, rows(cell, count))
    busy = [{"time": BEGAN + 10_000 * (index + 1), "images": 640 * index, **_busy(index)} for index in range(4)]
    folder.vitals.write_text("".join(json.dumps(row) + "\n" for row in busy))


def _busy(index: int) -> dict[str, float]:
    return {"system/cpu_utilization_percentage": 97.5 - index, "system/process_memory_megabytes": 500.25 + index}


def finish(workspace: Workspace, cell: Cell, **metrics: float) -> None:
    """Give a run that has begun its pictures and its result."""
    picture = workspace.run(cell.run).pictures / "prototypes.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(PNG)
    noise = random.Random(cell.run)
    better = 0.1 * (cell.arm == "retrieved")
    final = {"test/knn": 0.5 + better + noise.uniform(0, 0.02), "test/linear": 0.6 + better + noise.uniform(0, 0.02)}
    references = {"untrained/test/knn": 0.3, "pixels/test/knn": 0.2, "health/rankme": 9.5, "health/feature_std": 0.8}
    _end(workspace, cell, "finished", {**final, **references, **metrics}, None)


def fail(workspace: Workspace, cell: Cell, error: str = "the loss is NaN at step 70") -> None:
    _end(workspace, cell, "failed", {}, error)


def _end(workspace: Workspace, cell: Cell, status: str, metrics: dict[str, float], error: str | None) -> None:
    result = RunResult.model_validate(
        {
            "run": cell.run,
            "status": status,
            "metrics": metrics,
            "cost": Cost(images=25600, flops=4 * 10**12, seconds=30.5, peak_memory_mb=512.0),
            "parameters": 206_000,
            "manifest": f"{MANIFEST}{cell.arm}",
            "sources": {"toyweb:pool": "feedfeed"},
            "code": "5eed5eed5eed",
            "commit": "c0ffee" * 6 + "abcd",
            "environment": {"torch": "2.15.0"},
            "error": error,
            "finished_at": BEGAN / 1000 + cell.seed * 1000 + 60.25,
        }
    )
    workspace.run(cell.run).write_outcome(result)


def remember(workspace: Workspace, one: Study) -> None:
    """As a launch does: the study is kept in the workspace."""
    atomic.write_text(workspace.study(one.name), one.model_dump_json())


def report(reports: Path, one: Study) -> Path:
    """A report's folder with the files that tracking takes."""
    folder = reports / one.name
    folder.mkdir(parents=True)
    comparison = {
        "metric": "test/knn",
        "arm": one.arms[1].name,
        "baseline": one.baseline,
        "difference": 0.1,
        "low": 0.05,
        "high": 0.15,
        "claim": "better",
        "words": "better by 10.0 points",
    }
    silent = {**comparison, "metric": "test/linear", "difference": None, "low": None, "high": None, "claim": "none"}
    (folder / "index.html").write_text(f"<!doctype html><title>{one.name}</title><p>{one.question}</p>")
    (folder / "report.md").write_text(f"# {one.question}\n")
    (folder / "results.csv").write_text("study,arm,seed,run,metric,step,value\n")
    (folder / "verdict.json").write_text(json.dumps([comparison, silent]))
    return folder


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)  # one red pixel
