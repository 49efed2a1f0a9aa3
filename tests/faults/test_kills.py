"""A run killed at random moments and resumed each time ends as the undisturbed one, and MLflow holds each step once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny import RECIPE, STUDY, dinov2lab

KILLS = int(os.environ.get("KILLS", "4"))  # 20 for the full measurement, see benchmarks/README.md
ARMS = "arms:\n  uncurated: {curation.stages: [{stage: sample, images: 96}]}\n"
LONGER = RECIPE.replace("steps: 12", "steps: 300").replace("every: 128", "every: 1600")


def prepared(folder: Path) -> Path:
    (folder / "experiments").mkdir(parents=True)
    (folder / "ablations").mkdir()
    (folder / "experiments" / "tiny.yaml").write_text(LONGER)
    (folder / "ablations" / "path.yaml").write_text(STUDY.split("arms:")[0].replace("[0, 1]", "[0]") + ARMS)
    return folder


def result(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("lab/runs/*/result.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def rows(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("lab/runs/*/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def processes(folder: Path) -> list[int]:
    """Of the run: the command and its workers, found by their folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").resolve() == folder.resolve() and b"dinov2lab" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.system
def test_killed_and_resumed_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    calm, stormy = prepared(tmp_path / "calm"), prepared(tmp_path / "stormy")
    assert dinov2lab(calm, "run", "path").returncode == 0
    chance = random.Random(7)
    command = [sys.executable, "-m", "dinov2lab.cli", "run", "path"]
    for _ in range(KILLS):
        process = subprocess.Popen(command, cwd=stormy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(2, 20))
        victims = processes(stormy)
        for victim in chance.sample(victims, chance.randint(1, len(victims))) if victims else []:
            os.kill(victim, signal.SIGKILL)
        process.kill()
        process.wait()
        wait_until_gone(stormy)
    answer = dinov2lab(stormy, "run", "path")
    assert answer.returncode == 0, answer.stderr
    assert result(stormy)["metrics"] == result(calm)["metrics"]
    steady = [name for name in rows(calm)[-1] if name not in ("time", "speed/images_per_second")]
    assert [[row.get(name) for name in steady] for row in rows(stormy)] == [
        [row.get(name) for name in steady] for row in rows(calm)
    ]
    assert not list(stormy.rglob("*.tmp"))
    assert mirrored(stormy) == len(rows(stormy))


def wait_until_gone(folder: Path) -> None:
    """A worker whose parent is gone writes a checkpoint and leaves."""
    deadline = time.monotonic() + 60
    while processes(folder):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.2)


def mirrored(folder: Path) -> int:
    """How many points of the loss MLflow holds, each step once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/lab/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "path"]
    (child,) = client.search_runs([experiment.experiment_id], "tags.arm = 'uncurated'")
    steps = Counter(point.step for point in client.get_metric_history(child.info.run_id, "loss/total"))
    assert set(steps.values()) == {1}
    return len(steps)
