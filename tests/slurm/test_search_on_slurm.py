"""A search on a real Slurm: a controller that is killed, a job that is, and the same command again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic
from lab import Lab, squeue, until
from tiny import RECIPE

from dinov2lab.lab.desk import Desk
from dinov2lab.spec.load_search import load_search
from dinov2lab.store.trials import read_trials

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("empty")]
SEARCH = """
question: Does the search hold?
base: plain.yaml
space: {optim.lr: {log: [1.0e-4, 1.0e-2]}}
metrics: {val/knn: maximize}
budget: {trials: 3}
sampler: random
"""
WORDS = ("search", "search", "--launcher", "slurm", "--slurm", "hours=0.2", "--jobs", "2")


def prepared(folder: Path) -> Lab:
    lab = Lab(folder)
    plain = "\n".join(line for line in RECIPE.splitlines() if not line.startswith("curation"))
    (folder / "experiments/plain.yaml").write_text(plain.replace("steps: 12", "steps: 60"))
    (folder / "experiments/search.yaml").write_text(SEARCH)
    return lab


def controller(lab: Lab) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dinov2lab.cli", *WORDS]
    environment = os.environ | {"PYTHONPATH": str(lab.code)}
    return subprocess.Popen(command, cwd=lab.folder, env=environment, stdout=subprocess.DEVNULL)


def attempts(lab: Lab) -> list[list[str]]:
    """Of each run, what was noted."""
    files = sorted((lab.folder / "lab/runs").glob("*/attempts.jsonl"))
    return [[json.loads(line)["what"] for line in file.read_text().splitlines()] for file in files]


def heartbeats(lab: Lab) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in (lab.folder / "lab/runs").glob("*/heartbeat.json")]


def test_killed_controllers_and_jobs_lose_no_trial(tmp_path: Path) -> None:
    """The jobs go on without the controller, the same command joins them, and what died is sent again."""
    lab = prepared(tmp_path / "lab")
    first = controller(lab)
    until(lambda: len(squeue()) == 2, every=0.1)
    first.kill()
    first.wait()
    job = until(lambda: heartbeats(lab), every=0.1)[0]
    second = controller(lab)
    os.kill(job["pid"], signal.SIGKILL)
    assert second.wait() == 0
    search = load_search(lab.folder / "experiments/search.yaml")
    trials = read_trials(synthetic.workspace(lab.folder).search("search"))
    assert [trial.state for trial in trials] == ["complete"] * 3
    found = lab.metrics()
    assert {trial.runs[0]: trial.values for trial in trials} == {run: (found[run]["val/knn"],) for run in found}
    assert sorted(each.count("submitted") for each in attempts(lab)) == [1, 1, 2]
    calm = synthetic.workspace(tmp_path / "calm")
    desk = Desk(search, calm, synthetic.Bench(calm))
    while desk.turn():
        pass
    assert [trial.point for trial in trials] == [trial.point for trial in read_trials(calm.search("search"))]
    assert (lab.folder / "reports/search/index.html").exists()
    assert not squeue()
    assert "0 jobs cancelled" in lab.say("cancel", "search")


def test_what_slurm_would_refuse_is_one_line_and_nothing_begins(tmp_path: Path) -> None:
    lab = prepared(tmp_path)
    for words, says in (
        (("--slurm", "partition=nowhere"), "sbatch: error: invalid partition specified: nowhere"),
        (("--profile", "arm=x"), "a search has no arms"),
    ):
        text = lab.say(*WORDS, *words, code=2)
        assert says in text
        assert len(text.splitlines()) == 1
    assert not list((tmp_path / "lab").glob("searches/*"))
    assert not squeue()
