"""Processor time and memory of `dinov2lab report` on a finished study whose runs are fabricated: drawn, then once more.

    python benchmarks/report.py [--arms N] [--seeds N] [--rows N]

One JSON line for each of the two commands. `--rows` are those of a run's metrics.jsonl, every tenth with a look at val.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dinov2lab.spec.run import OptimSpec, RunSpec
from dinov2lab.spec.study import Arm, Cell, Decide, Study, expand
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import Manifest
from dinov2lab.store.result import Cost, RunResult
from dinov2lab.store.studies import as_stored

DENSE = ("loss/total", "loss/dino_global", "loss/dino_local", "loss/ibot", "loss/koleo", "optim/lr", "gradient/norm")
HEALTH = ("health/rankme", "health/feature_std", "teacher/entropy", "student/entropy", "val/knn")
FINALS = ("test/knn", "val/knn", "test/linear", "val/linear", "health/rankme")
BATCH, EVERY = 64, 10


def made(arms: int, seeds: int, rows: int) -> Study:
    """Arms that differ in the learning rate."""
    optim = OptimSpec(batch=BATCH, steps=rows * EVERY, warmup_steps=10, freeze_last_layer_steps=0)
    specs = [RunSpec(optim=optim.model_copy(update={"lr": 1e-4 * (1 + arm)})) for arm in range(arms)]
    return Study(
        name="many",
        question="Which learning rate is best?",
        factor=("optim.lr",),
        baseline="lr-0",
        arms=tuple(Arm(name=f"lr-{index}", spec=spec) for index, spec in enumerate(specs)),
        seeds=tuple(range(seeds)),
        metrics=("test/knn", "test/linear", "health/rankme"),
        decide=Decide(metric="test/knn"),
    )


def write(workspace: Workspace, cell: Cell, rows: int) -> None:
    chance, folder = random.Random(cell.run), workspace.run(cell.run)
    folder.path.mkdir(parents=True)
    folder.spec.write_text(cell.spec.model_dump_json())
    folder.provenance.write_text(json.dumps({"started_at": 1.79e9, "manifest_folder": "cache/manifests/all"}))
    lines = []
    for index in range(rows):
        names = DENSE + HEALTH if index % 10 == 9 else DENSE
        row = {"step": index * EVERY, "images": index * EVERY * BATCH, "time": 1_790_000_000_000 + index}
        lines.append(json.dumps(row | {name: chance.random() for name in names}) + "\n")
    folder.metrics.write_text("".join(lines))
    metrics = {
        f"{whose}{name}": level + chance.random() / 10
        for name in FINALS
        for whose, level in (("", 0.6), ("pixels/", 0.2), ("untrained/", 0.3))
    }
    result = RunResult(
        run=cell.run,
        status="finished",
        metrics=metrics,
        cost=Cost(images=rows * EVERY * BATCH, flops=4 * 10**12, seconds=30 + chance.random(), peak_memory_mb=512.0),
        parameters=206_000,
        manifest="all",
        sources={"toyweb:pool": "feedfeed"},
        code="5eed5eed5eed",
        environment={"torch": "2.15.0"},
        finished_at=1.79e9,
    )
    folder.result.write_text(result.model_dump_json(indent=1))


def fabricate(folder: Path, arms: int, seeds: int, rows: int) -> Study:
    study, workspace = made(arms, seeds, rows), Workspace(folder / "lab")
    for cell in expand(study):
        write(workspace, cell, rows)
    manifest = Manifest(id="all", parent=None, stage="source", parameters={}, rows=1600, dropped={})
    (workspace.cache / "manifests" / "all").mkdir(parents=True)
    (workspace.cache / "manifests" / "all" / "manifest.json").write_text(manifest.model_dump_json())
    workspace.studies.mkdir()
    workspace.study(study.name).write_text(as_stored(study))
    return study


def measured(folder: Path, study: str) -> dict[str, float]:
    command = [sys.executable, "-m", "dinov2lab.cli", "report", study]
    began = time.monotonic()
    places = ["--workspace", str(folder / "lab"), "--reports", str(folder / "reports")]
    process = subprocess.Popen(command + places, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    page = folder / "reports" / study / "index.html"
    return {
        "process_s": round(used.ru_utime + used.ru_stime, 2),
        "wall_s": round(time.monotonic() - began, 2),
        "peak_mb": round(used.ru_maxrss / 1024),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "status": os.waitstatus_to_exitcode(status),
    }


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--arms", type=int, default=20)
parser.add_argument("--seeds", type=int, default=500)
parser.add_argument("--rows", type=int, default=100)
parser.add_argument("--keep", type=Path, help="a folder for what is fabricated, used again when it is there")
arguments = parser.parse_args()
with tempfile.TemporaryDirectory() as temporary:
    place = arguments.keep or Path(temporary)
    study = made(arguments.arms, arguments.seeds, arguments.rows)
    if not (place / "lab" / "studies").exists():
        fabricate(place, arguments.arms, arguments.seeds, arguments.rows)
    runs = len(study.arms) * len(study.seeds)
    for command in ("drawn", "again"):
        print(json.dumps({"runs": runs, "command": command} | measured(place, study.name)), flush=True)
