"""A study whose processes are killed at random moments, and started each time again, ends as the undisturbed one did.

KILLS says how often. Each kind of process is killed as often as any other at each stage that it has a part in; when, and in
which order, is drawn from a seed.
"""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from tiny import EMBEDDER, RECIPE, STUDY, dinov2lab

from dinov2lab.store import atomic
from dinov2lab.store.result import RunFolder


class Card(NamedTuple):
    """What to kill, and when."""

    stage: str
    kind: str  # of process; `all` at once


CARDS = (
    Card("opening", "opening"),
    Card("curation", "worker"),
    Card("curation", "cli"),
    Card("training", "worker"),
    Card("training", "loader"),
    Card("training", "cli"),
    Card("training", "all"),
    Card("evaluation", "worker"),
    Card("evaluation", "cli"),
    Card("report", "publisher"),
    Card("report", "cli"),
    Card("mirror", "publisher"),
    Card("mirror", "cli"),
)
LENGTH = {"opening": 0.5, "curation": 1.0, "training": 1.5, "evaluation": 1.0, "report": 1.0, "mirror": 1.0}  # seconds
HAND = 6  # cards at a time that are played as soon as they can be

KILLS = int(os.environ.get("KILLS", str(len(CARDS))))  # 200 for the full measurement, see benchmarks/README.md
SEED = 7
STEPS = 40
RUN = ("run", "path", "--device", "cpu", "--jobs", "2")
# The same command, with a process that makes the views of each run, and two checkpoints a second.
SHAKEN = """
import dinov2lab.cli
from dinov2lab import commands
from dinov2lab.spec.resources import Resources
commands.resources_for = lambda *_: (2, Resources(device="cpu", workers=1, checkpoint_seconds=0.5))
dinov2lab.cli.main()
"""


def prepared(folder: Path) -> Path:
    for name, text in (
        ("experiments/tiny.yaml", RECIPE.replace("steps: 12", f"steps: {STEPS}").replace("every: 128", "every: 640")),
        ("experiments/embedder.yaml", EMBEDDER),
        ("ablations/path.yaml", STUDY),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.system
def test_killed_at_random_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    calm = prepared(tmp_path / "calm")
    assert dinov2lab(calm, *RUN).returncode == 0
    chance, killed, rounds = random.Random(SEED), Counter[Card](), 0
    cards = [card for _ in range(math.ceil(KILLS / len(CARDS))) for card in chance.sample(CARDS, len(CARDS))][:KILLS]
    while cards:
        rounds += 1
        stormy = prepared(tmp_path / f"stormy{rounds}")
        killed += storm(stormy, cards, chance)
        answer = dinov2lab(stormy, *RUN)
        assert answer.returncode == 0, answer.stderr
        assert_as_if_nothing_had_happened(stormy, calm)
        shutil.rmtree(stormy)
    told = ", ".join(f"{card.kind} in {card.stage} {count}" for card, count in sorted(killed.items()))
    print(f"{killed.total()} kills in {rounds} rounds: {told}")


def storm(folder: Path, cards: list[Card], chance: random.Random) -> Counter[Card]:
    """Start the study and kill, as often as there are cards, or until it has ended all the same."""
    killed, said = Counter[Card](), folder / "said"
    while cards:
        with said.open("ab") as file:
            process = subprocess.Popen([sys.executable, "-c", SHAKEN, *RUN[:2]], cwd=folder, stdout=file, stderr=file)
        while process.poll() is None and cards:
            if card := kill_one(folder, cards, chance, process):
                killed[card] += 1
        process.kill()
        if process.wait() == 0:
            break
        if chance.random() < 0.5:  # the next one may find workers that are still leaving
            wait_until_gone(folder)
    wait_until_gone(folder)
    assert "Traceback" not in said.read_text(), said.read_text()
    said.unlink()
    return killed


def kill_one(folder: Path, cards: list[Card], chance: random.Random, study: "subprocess.Popen[bytes]") -> Card | None:
    """Play the first card that can be played, at a random moment of its stage."""
    while study.poll() is None:
        for card in cards[:HAND]:
            if victims(folder, card):
                time.sleep(chance.uniform(0, LENGTH[card.stage]))
                if found := victims(folder, card):
                    for victim in found if card.kind == "all" else [chance.choice(found)]:
                        with suppress(ProcessLookupError):
                            os.kill(victim, signal.SIGKILL)
                    cards.remove(card)
                    return card
        time.sleep(0.02)
    return None


def victims(folder: Path, card: Card) -> list[int]:
    there = processes(folder)
    if card.stage not in ("curation", "training", "evaluation"):
        at_work = list(there) if card.stage in common_stages(folder, there) else []
    else:
        at_work = workers_at(folder, card.stage)
    match card.kind:
        case "all":
            return sorted(there) if at_work else []
        case "worker":
            return at_work
        case "loader":
            return [child for worker in at_work for child in children(worker)]
        case kind:
            return [process for process, name in there.items() if name == kind and at_work]


def common_stages(folder: Path, there: dict[int, str]) -> set[str]:
    locks = {"mirror": folder / "lab/tracking/lock", "report": folder / "lab/studies/path.lock"}
    found = {stage for stage, lock in locks.items() if atomic.held(lock)}
    return found | {"opening"} if "opening" in there.values() else found


def workers_at(folder: Path, stage: str) -> list[int]:
    """The processes of the runs that are there."""
    found = set()
    for run in map(RunFolder, folder.glob("lab/runs/*")):
        with suppress(FileNotFoundError, ValueError):  # it has just ended
            if atomic.held(run.lock) and stage_of(run) == stage:
                found.add(json.loads(run.heartbeat.read_bytes())["pid"])
    return sorted(found)


def stage_of(run: RunFolder) -> str:
    if not run.provenance.exists():
        return "curation"
    rows = run.rows()
    return "evaluation" if rows and rows[-1]["step"] == STEPS else "training"


def children(process: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(process).children()]
    except psutil.NoSuchProcess:
        return []


def processes(folder: Path) -> dict[int, str]:
    """Of the study: the command, its workers, what opens the sources and what writes the report, by their folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode()
                kind = re.search(r"dinov2lab\.(?:lab\.)?(\w+)", command)
                if kind and (entry / "cwd").resolve() == folder.resolve():
                    found[int(entry.name)] = kind[1]
    return found


def wait_until_gone(folder: Path) -> None:
    """A worker whose parent is gone writes a checkpoint and leaves; what writes the report finishes that."""
    deadline = time.monotonic() + 600
    while left := processes(folder):
        assert time.monotonic() < deadline, f"outlived their parent: {left}"
        time.sleep(0.1)


def assert_as_if_nothing_had_happened(stormy: Path, calm: Path) -> None:
    assert results(stormy) == results(calm)
    assert rows(stormy) == rows(calm)
    assert verdict(stormy) == verdict(calm)
    assert not processes(stormy)
    assert files(stormy) == files(calm)
    assert not [lock for lock in (*stormy.rglob("lock"), *stormy.rglob("*.lock")) if atomic.held(lock)]
    assert mirrored(stormy) == {run: len(found) for run, found in rows(stormy).items() if run in mirrored(stormy)}
    assert len(mirrored(stormy)) == 4


def results(folder: Path) -> dict[str, Any]:
    """Of each run, without what a clock and a machine say."""
    found = [json.loads(file.read_text()) for file in folder.glob("lab/runs/*/result.json")]
    for result in found:
        for name in ("seconds", "peak_memory_mb"):
            del result["cost"][name]
        del result["finished_at"]
    return {result["run"]: result for result in found}


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


def verdict(folder: Path) -> Any:
    return json.loads((folder / "reports/path/verdict.json").read_text())


def files(folder: Path) -> Counter[str]:
    """The names of all files that the study has left, with MLflow's ids for runs made equal."""
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    told = ("attempts.jsonl", "log")  # of what has happened, and only while it matters
    return Counter(re.sub(r"\b[0-9a-f]{32}\b", "RUN", name) for name in names if not name.endswith(told))


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
