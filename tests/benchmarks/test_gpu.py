"""The script for a machine with a GPU, on this one's processor: that it runs, and that both steps do the same work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinov2lab.draws import Key
from dinov2lab.training.step import State, train_step

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_the_plain_step_has_the_losses_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from gpu import recipe
    from plain import plain_step
    from work import synthetic_crops, with_masks

    spec = recipe("pico", 8, px=(32, 16), patch=8)
    spec = spec.model_copy(update={"optim": spec.optim.model_copy(update={"precision": "fp32"})})
    crops, ours, plain = synthetic_crops(spec), *(State(spec, Key(0), torch.device("cpu")) for _ in range(2))
    for step in range(3):
        batch = with_masks(crops, step, spec, Key(0))
        wanted = float(train_step(ours, batch, spec, Key(0))["loss/total"])
        # Adam's first update is the sign of a gradient, which rounding turns where that is near 0.
        near = 1e-5 if step == 0 else 1e-2
        assert float(plain_step(plain, batch, spec)) == pytest.approx(wanted, rel=near)


def test_the_script_says_its_figures() -> None:
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--small"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    figures = [json.loads(line) for line in said]
    exact, half = (each["worst_relative"] for each in figures if each["figure"] == "parity")
    assert exact == 0
    assert 0 < half < 0.02
    assert [each["step"] for each in figures if each["figure"] == "speed"] == ["ours", "plain"]
