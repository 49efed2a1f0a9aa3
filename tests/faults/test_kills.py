"""A study whose processes are killed at random moments, and started each time again, ends as the undisturbed one did."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny import EMBEDDER, RECIPE, STUDY, dinov2lab

from dinov2lab.store import atomic

KILLS = int(os.environ.get("KILLS", "20"))  # 200 for the full measurement, see benchmarks/README.md
SEED = 7
LONGER = RECIPE.replace("steps: 12", "steps: 40")
RUN = ("run", "path", "--device", "cpu", "--jobs", "2")


def prepared(folder: Path) -> Path:
    for name, text in (
        ("experiments/tiny.yaml", LONGER),
        ("experiments/embedder.yaml", EMBEDDER),
        ("ablations/path.yaml", STUDY),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def results(folder: Path) -> dict[str, Any]:
    found = [json.loads(file.read_text()) for file in folder.glob("lab/runs/*/result.json")]
    return {result["run"]: result["metrics"] for result in found}


def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Of each run, without what a clock says."""
    found = {}
    for file in folder.glob("lab/runs/*/metrics.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        timeless = [
            {name: row[name] for name in row if name not in ("time", "speed/images_per_second")} for row in lines
        ]
        found[file.parent.name] = timeless
    return found


def processes(folder: Path) -> dict[int, str]:
    """Of the study: the command, its workers, what opens the sources and what writes the report, by their folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                if (entry / "cwd").resolve() == folder.resolve() and any("dinov2lab" in word for word in words):
                    found[int(entry.name)] = next(word for word in words if "dinov2lab" in word).rpartition(".")[2]
            except OSError:
                continue
    return found


def kill_one(folder: Path, chance: random.Random, goes_on: Callable[[], bool]) -> Counter[str]:
    """One process of a kind that is drawn first, at a random moment of its life; now and then all of them with it."""
    kind = chance.choices(("worker", "cli", "publisher", "opening"), (6, 3, 2, 1))[0]
    while goes_on() and kind not in processes(folder).values():
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 6))
    there = processes(folder)
    victims = [process for process, name in there.items() if name == kind]
    victims = sorted(there) if victims and chance.random() < 0.15 else victims[:1]
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    return Counter(there[victim] for victim in victims)


@pytest.mark.system
def test_killed_at_random_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    calm = prepared(tmp_path / "calm")
    assert dinov2lab(calm, *RUN).returncode == 0
    chance, killed, rounds = random.Random(SEED), Counter[str](), 0
    while killed.total() < KILLS:
        rounds += 1
        stormy = prepared(tmp_path / f"stormy{rounds}")
        killed += storm(stormy, chance, KILLS - killed.total())
        answer = dinov2lab(stormy, *RUN)
        assert answer.returncode == 0, answer.stderr
        assert_as_if_nothing_had_happened(stormy, calm)
        shutil.rmtree(stormy)
    print(f"{killed.total()} kills in {rounds} rounds: {dict(killed)}")


def storm(folder: Path, chance: random.Random, kills: int) -> Counter[str]:
    """Kill until that many have died, or until the study has ended all the same."""
    killed = Counter[str]()
    while killed.total() < kills:
        command = [sys.executable, "-m", "dinov2lab.cli", *RUN]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and killed.total() < kills:
                killed += kill_one(folder, chance, lambda: process.poll() is None)
            if process.poll() == 0:
                return killed
            process.kill()
        wait_until_gone(folder)
    return killed


def wait_until_gone(folder: Path) -> None:
    """A worker whose parent is gone writes a checkpoint and leaves."""
    deadline = time.monotonic() + 60
    while left := processes(folder):
        assert time.monotonic() < deadline, f"outlived their parent: {left}"
        time.sleep(0.1)


def assert_as_if_nothing_had_happened(stormy: Path, calm: Path) -> None:
    assert results(stormy) == results(calm)
    assert rows(stormy) == rows(calm)
    assert not processes(stormy)
    assert not [file for pattern in (".*.tmp", "heartbeat.json") for file in stormy.rglob(pattern)]
    assert not [lock for lock in (*stormy.rglob("lock"), *stormy.rglob("*.lock")) if atomic.held(lock)]
    assert mirrored(stormy) == {run: len(found) for run, found in rows(stormy).items() if run in mirrored(stormy)}
    assert len(mirrored(stormy)) == 4


def mirrored(folder: Path) -> dict[str, int]:
    """Run -> how many points of its loss MLflow holds, each step once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/lab/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "path"]
    children = client.search_runs([experiment.experiment_id], "tags.`dinov2lab.kind` = 'run'")
    found = {}
    for child in children:
        steps = Counter(point.step for point in client.get_metric_history(child.info.run_id, "loss/total"))
        assert set(steps.values()) == {1}
        assert child.info.status == "FINISHED"
        found[child.data.tags["run_id"]] = len(steps)
    assert len(found) == len(children), "a run is there twice"
    return found
