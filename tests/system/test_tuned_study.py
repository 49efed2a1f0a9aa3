"""A study whose arms are tuned, with real runs: one command to the report, killed on the way, and once more."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import RECIPE, dinov2lab

from dinov2lab.spec.study import Study, expand

pytestmark = pytest.mark.system
SEARCH = """
base: tiny.yaml
space: {optim.lr: {log: [1.0e-4, 1.0e-2]}}
metrics: {val/knn: maximize}
budget: {trials: 2}
sampler: random
"""
STUDY = """
question: Does KoLeo help, each arm at its own learning rate?
base: ../experiments/tiny.yaml
factor: objective.koleo.weight
baseline: with
seeds: [0]
metrics: [test/knn]
decide: {metric: test/knn}
arms: {with: {}, without: {objective.koleo.weight: 0.0}}
tune: {per_arm: ../experiments/rates.yaml}
"""


def test_killed_while_it_tunes_it_ends_with_fresh_runs_at_the_best_points(tmp_path: Path) -> None:
    for folder in ("experiments", "ablations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "experiments/tiny.yaml").write_text(RECIPE.replace("segmentation: {epochs: 2}", "segmentation: null"))
    (tmp_path / "experiments/rates.yaml").write_text(SEARCH)
    (tmp_path / "ablations/koleo.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "dinov2lab.cli", "run", "koleo", "--jobs", "1"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("lab/runs/*/result.json")):
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    answer = dinov2lab(tmp_path, "run", "koleo", "--jobs", "1")
    assert answer.returncode == 0, answer.stderr
    study = Study.model_validate_json((tmp_path / "lab/studies/koleo.json").read_bytes())
    trials = {
        arm: json.loads((tmp_path / f"lab/searches/koleo.{arm}/trials.json").read_bytes())
        for arm in ("with", "without")
    }
    assert [[each["state"] for each in of] for of in trials.values()] == [["complete"] * 2] * 2
    best = {arm: max(of, key=lambda each: each["values"][0])["point"]["optim.lr"] for arm, of in trials.items()}
    evidence = {cell.arm: cell for cell in expand(study)}
    assert {arm: cell.spec.optim.lr for arm, cell in evidence.items()} == best
    tried = {run for of in trials.values() for each in of for run in each["runs"]}
    finished = {file.parent.name for file in tmp_path.glob("lab/runs/*/result.json")}
    assert finished == tried | {cell.run for cell in evidence.values()}
    assert len(finished) == 4 + 2
    page = (tmp_path / "reports/koleo/report.md").read_text()
    assert "How the arms were tuned" in page
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert dinov2lab(tmp_path, "run", "koleo").returncode == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before
