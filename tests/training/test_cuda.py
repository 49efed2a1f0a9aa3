"""On a GPU: the losses of the CPU, and a run that was stopped goes on."""

import pytest
import torch
from short_run import SPEC, pictures, with_

from dinov2lab.spec.resources import Resources
from dinov2lab.store.result import RunFolder
from dinov2lab.training.loop import Trained, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def rows(spec, folder, device, stop_after=None):
    """Train; the metrics. With `stop_after`, in two goes."""
    calls = iter(range(10**6))
    for stop in ([lambda: next(calls) >= stop_after] if stop_after else []) + [lambda: False]:
        trained = train(spec, pictures(), RunFolder(folder), Resources(), device, lambda *_: {}, stop)
    assert isinstance(trained, Trained)
    return RunFolder(folder).rows_after(0)[0]


def test_losses_are_those_of_the_cpu(tmp_path):
    for name in ("cpu", "cuda"):
        (tmp_path / name).mkdir()
    wanted, found = rows(SPEC, tmp_path / "cpu", CPU), rows(SPEC, tmp_path / "cuda", CUDA)
    assert [row["loss/total"] for row in found] == pytest.approx([row["loss/total"] for row in wanted], rel=1e-4)


def test_half_precision_stays_near(tmp_path):
    for name in ("fp32", "bf16"):
        (tmp_path / name).mkdir()
    wanted = rows(SPEC, tmp_path / "fp32", CUDA)
    found = rows(with_(SPEC, {"optim.precision": "bf16"}), tmp_path / "bf16", CUDA)
    assert [row["loss/total"] for row in found] == pytest.approx([row["loss/total"] for row in wanted], rel=0.02)


def test_a_stopped_run_goes_on(tmp_path):
    for name in ("whole", "parted"):
        (tmp_path / name).mkdir()
    wanted, found = rows(SPEC, tmp_path / "whole", CUDA), rows(SPEC, tmp_path / "parted", CUDA, stop_after=5)
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    assert [row["loss/total"] for row in found] == pytest.approx([row["loss/total"] for row in wanted], rel=1e-4)
