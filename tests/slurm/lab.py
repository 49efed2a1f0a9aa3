"""A folder with a small study, and commands in it, for the tests on a cluster."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import RECIPE, STUDY, written

ROOT = Path(__file__).parents[2]
ONE_ARM = "arms:\n  uncurated: {curation.stages: [{stage: sample, images: 96}]}\n"
SMALL = ("--launcher", "slurm", "--slurm", "hours=0.2")


class Lab:
    """With a copy of the package of its own, so that a test may spoil it."""

    def __init__(self, folder: Path, study: str = STUDY, recipe: str = RECIPE) -> None:
        self.folder, self.code = folder, folder / "code"
        written(folder, recipe, study)
        shutil.copytree(ROOT / "dinov2lab", self.code / "dinov2lab")

    def say(self, *words: str, code: int = 0) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        answer = subprocess.run(
            [sys.executable, "-m", "dinov2lab.cli", *words],
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(self.code)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == code, answer.stdout + answer.stderr
        return answer.stdout + answer.stderr

    def status(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.say("status", "path", "--json"))
        return rows

    def rows(self, run: str) -> list[dict[str, Any]]:
        file = self.folder / "lab" / "runs" / run / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def metrics(self) -> dict[str, dict[str, float]]:
        results = [json.loads(file.read_text()) for file in self.folder.glob("lab/runs/*/result.json")]
        return {result["run"]: result["metrics"] for result in results}

    @property
    def report(self) -> Path:
        return self.folder / "reports" / "path" / "report.md"


def until(holds: Callable[[], Any], seconds: float = 300, every: float = 0.5) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(every)
    return found


def cluster(*words: str) -> str:
    """The script that starts and stops a Slurm."""
    answer = subprocess.run([Path(__file__).parent / "cluster", *words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def squeue() -> dict[str, str]:
    """Job -> state."""
    text = subprocess.check_output(["squeue", "--me", "--noheader", "--array", "--format=%i %T"], text=True)
    return dict(line.split() for line in text.splitlines())
