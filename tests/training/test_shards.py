"""Weights cut among processes: the numbers of one process, a share of its memory, checkpoints that all go on from."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from short_run import SPEC, pictures, with_
from side_by_side import CPU, together
from test_processes import EMA, FIFTY, KEY, SHARED, assert_alike, rows, trained
from torch.distributed.tensor import DTensor

from dinov2lab.data.loader import Order
from dinov2lab.model import shards
from dinov2lab.spec.resources import Resources, Slurm
from dinov2lab.training import checkpoint
from dinov2lab.training.distributed import local
from dinov2lab.training.loop import make_batch
from dinov2lab.training.parts import of_this_process
from dinov2lab.training.step import State, train_step


@pytest.mark.parametrize(
    ("changes", "resources"), [(FIFTY, {}), (EMA | SHARED, {"micro_batches": 2, "recompute": "blocks"})]
)
def test_two_processes_with_a_share_each_have_the_losses_of_one(
    changes: dict[str, Any], resources: dict[str, Any], tmp_path: Path
) -> None:
    spec = with_(SPEC, changes | {"objective.koleo.group": 2})
    (one,) = trained(tmp_path / "one", spec, 1)
    first, second = trained(tmp_path / "two", spec, 2, shard="weights", **resources)
    assert_alike(rows(tmp_path / "two"), rows(tmp_path / "one"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), [((2, "weights"), (1, "none")), ((1, "none"), (3, "weights"))])
def test_a_checkpoint_goes_on_with_and_without_shards(
    before: tuple[int, Any], after: tuple[int, Any], tmp_path: Path
) -> None:
    spec, folder = with_(SPEC, {**EMA, "optim.batch": 12, "objective.koleo.group": 2}), tmp_path / "moved"
    trained(tmp_path / "one", spec, 1)
    assert trained(folder, spec, before[0], stop_after=5, shard=before[1]) == [None] * before[0]
    assert checkpoint.load(folder / "checkpoint.pt")["step"] == 5
    trained(folder, spec, after[0], shard=after[1])
    assert_alike(rows(folder), rows(tmp_path / "one"))
    written = [shards.name_of(folder / "checkpoint.pt", 12, rank, 3) for rank in range(3)]
    assert sorted(file.name for file in folder.glob("*.safetensors")) == (written if after[1] == "weights" else [])


def _stepped(spec: Any, steps: int, shard: Any) -> tuple[State, dict[str, torch.Tensor]]:
    state, images = State(spec, KEY, CPU, shard=shard), pictures()
    for step in range(steps):
        batch = make_batch(step, images, Order(len(images), KEY), spec, KEY, CPU, of_this_process())
        logged = train_step(state, batch, spec, KEY)
    return state, logged


def _bytes() -> int:
    """Of the storages of all float32 tensors that Python knows; those that other tests left without any do not count."""
    gc.collect()
    tensors = [local(each) for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter, DTensor)]
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in tensors
        if each.is_floating_point()
    }
    return sum(size for where, size in storages.items() if where)


def test_no_process_keeps_more_than_its_share() -> None:
    """Of student, teacher and both moments, after steps."""

    def work(rank: int) -> tuple[int, int, int]:
        before = _bytes()
        state, logged = _stepped(SPEC, 2, "weights")
        state.optimizer.zero_grad()
        del logged
        shapes = [(each.shape, local(each)) for each in state.student.parameters()]
        share = sum(4 * -(-shape[0] // 2) * shape[1:].numel() for shape, _ in shapes)  # the longest, of two
        held = sum(mine.nbytes for _, mine in shapes)
        del shapes
        return _bytes() - before, share, held

    whole = sum(4 * each.numel() for each in State(SPEC, KEY, CPU).student.parameters())
    found = together(2, work)
    assert sum(held for _, _, held in found) == whole
    for held, share, _ in found:
        assert share < 0.6 * whole
        assert held < 4.2 * share


def test_weights_are_gathered_in_bf16_and_kept_in_float32() -> None:
    spec = with_(SPEC, {"optim.precision": "bf16"})

    def work(rank: int) -> tuple[set[torch.dtype], list[float]]:
        state, logged = _stepped(spec, 4, "weights")
        kept = {each.dtype for each in (*state.student.parameters(), *state.teacher.parameters())}
        return kept | {each.grad.dtype for each in state.student.parameters() if each.grad is not None}, float(
            logged["loss/total"]
        )

    whole = float(_stepped(spec, 4, "none")[1]["loss/total"])
    for types, loss in together(2, work):
        assert types == {torch.float32}
        assert loss == pytest.approx(whole, rel=2e-2)


def test_a_shard_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    shards.write({"student/a": torch.ones(2)}, tmp_path / "checkpoint-1.1-of-2.safetensors")
    shards.write_index(path, ["checkpoint-1.1-of-2.safetensors", "checkpoint-1.2-of-2.safetensors"], {"groups": []})
    with pytest.raises(
        ValueError, match=r"checkpoint-1.2-of-2.safetensors: damaged or missing .*; delete .*checkpoint.pt"
    ):
        checkpoint.load(path)
    (tmp_path / "checkpoint-1.2-of-2.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"checkpoint-1.2-of-2.safetensors: damaged"):
        checkpoint.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"checkpoint.pt: damaged"):
        checkpoint.load(path)


def test_what_does_not_go_with_shards_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--side-by-side 2: .* --micro-batches do"):
        Resources(processes=2, shard="weights", side_by_side=2).check(SPEC)
    with pytest.raises(ValueError, match="shard weights cuts among the processes of a run, and this profile has one"):
        Slurm(shard="weights")
    profile = Slurm(shard="weights", nodes=2)
    assert profile.resources.shard == "weights"
    assert profile.alone.resources.processes == 1
