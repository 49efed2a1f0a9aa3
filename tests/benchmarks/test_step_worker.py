"""The work that speed is measured on, and the worker that other harnesses step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dinov2lab.spec.cost import flops_of_image

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("work", "gflop"), [("W1", 131.501336160), ("W2", 665.992796544)])
def test_the_work_costs_the_arithmetic_that_the_harness_counts_for_every_implementation(monkeypatch, work, gflop):
    monkeypatch.syspath_prepend(FOLDER)
    from work import recipe

    spec = recipe(work)
    assert flops_of_image(spec) * spec.optim.batch / 1e9 == pytest.approx(gflop, rel=1e-12)


def test_a_worker_answers_each_number_of_steps_with_as_many_times():
    command = [sys.executable, str(FOLDER / "step.py"), "--work", "W1", "--serve"]
    said = subprocess.run(command, input="1\n", capture_output=True, text=True, check=True).stdout.splitlines()
    ready, answer = map(json.loads, said)
    assert ready["ready"] is True
    assert len(answer["wall"]) == len(answer["cpu"]) == 1
    assert 0 < answer["loss"] < 20
    assert answer["peak_rss_mb"] >= ready["rss_before_mb"] > 100
