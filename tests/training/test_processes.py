"""One process and several: the same choices exactly, the same losses to rounding, and checkpoints that all can go on from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from short_run import SPEC, pictures, with_
from side_by_side import CPU, together

from dinov2lab import collectives
from dinov2lab.data.loader import Order
from dinov2lab.draws import Key
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.result import RunFolder
from dinov2lab.training import checkpoint, step
from dinov2lab.training.loop import make_batch, train
from dinov2lab.training.parts import Part

PICTURES, KEY = pictures(), Key(0)
EMA = {"objective.teacher.centering": "ema"}
SHARED = {"objective.ibot.head": None}
NO_KOLEO = {"objective.koleo.weight": 0.0}


def trained(
    folder: Path, spec: RunSpec, processes: int, stop_after: int = 10**9, pictures: Any = PICTURES, **resources: Any
) -> Any:
    """A run on `processes`, in `folder`; what each of them returned."""
    folder.mkdir(exist_ok=True)
    given = Resources(processes=processes, **{"checkpoint_seconds": 1e9, **resources})

    def work(rank: int) -> Any:
        asked = iter(range(1, 10**9))
        stop = (lambda: next(asked) == stop_after) if rank == processes - 1 else (lambda: False)
        done = train(spec, pictures, RunFolder(folder), given, CPU, lambda *_: {"health/probe": float(rank)}, stop)
        return None if done is None else {name: value.clone() for name, value in done.backbone.state_dict().items()}

    return together(processes, work) if processes > 1 else [work(0)]


def rows(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in row.items() if name not in ("time", "speed/images_per_second")} for row in found]


def assert_alike(found: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in other]
    for ours, theirs in zip(found, other, strict=True):
        losses = {name: value for name, value in ours.items() if name.startswith("loss/")}
        assert losses == pytest.approx({name: theirs[name] for name in losses}, rel=1e-5, abs=1e-6), ours["step"]
        assert ours == pytest.approx(theirs, rel=1e-3), ours["step"]


FIFTY = {"optim.steps": 50, "optim.warmup_steps": 5}


@pytest.mark.parametrize("changes", [FIFTY, FIFTY | EMA | SHARED, NO_KOLEO | {"model.drop_path": 0.6}])
def test_two_processes_have_the_losses_of_one(changes: dict[str, Any], tmp_path: Path) -> None:
    spec = with_(SPEC, changes)
    (one,) = trained(tmp_path / "one", spec, 1)
    first, second = trained(tmp_path / "two", spec, 2)
    assert_alike(rows(tmp_path / "two"), rows(tmp_path / "one"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, one, rtol=1e-3, atol=1e-4)


def test_four_processes_in_parts_have_the_losses_of_one(tmp_path: Path) -> None:
    """Some of which have no masked crop, or none of a size that drop path keeps."""
    spec = with_(SPEC, {"objective.koleo.group": 2, "model.drop_path": 0.9, "objective.ibot.masks.probability": 0.2})
    trained(tmp_path / "one", spec, 1)
    trained(tmp_path / "four", spec, 4, micro_batches=2, recompute="hidden")
    assert_alike(rows(tmp_path / "four"), rows(tmp_path / "one"))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_make_the_choices_of_one(count: int) -> None:
    """Images in their order, crops and their changes, masks, and what drop path keeps: bit for bit."""
    order = Order(len(PICTURES), KEY)
    sizes = [2 * SPEC.optim.batch, SPEC.views.local_crops * SPEC.optim.batch]
    kept = step.kept_crops(sizes, 3, 0.4, KEY, 7)
    whole = make_batch(7, PICTURES, order, SPEC, KEY, CPU)
    for number in range(count):
        part = Part(number, count)
        images = range(SPEC.optim.batch)[part.rows(SPEC.optim.batch)]
        batch = make_batch(7, PICTURES, order, SPEC, KEY, CPU, part)
        for ours, theirs in zip((*batch.crops, batch.masks), (*whole.crops, whole.masks), strict=True):
            crops = [row for row in range(len(theirs)) if row % SPEC.optim.batch in images]
            assert torch.equal(ours, theirs[crops])
        shares = step.kept_crops([size // count for size in sizes], 3, 0.4, KEY, 7, part)
        for share, all_ in zip(sum(shares, ()), sum(kept, ()), strict=True):
            assert share.scales == all_.scales
            for ours, theirs in zip(share.crops, all_.crops, strict=True):
                mine = [crop for crop in theirs.tolist() if crop % SPEC.optim.batch in images]
                each = len(images)
                assert [crop // each * SPEC.optim.batch + images[crop % each] for crop in ours.tolist()] == mine


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_checkpoint_goes_on_with_any_number_of_processes(before: int, after: int, tmp_path: Path) -> None:
    spec = with_(SPEC, {**EMA, "objective.koleo.group": 2})
    trained(tmp_path / "one", spec, 1)
    assert trained(tmp_path / "moved", spec, before, stop_after=5) == [None] * before
    assert checkpoint.load(tmp_path / "moved/checkpoint.pt")["step"] == 5
    trained(tmp_path / "moved", spec, after)
    assert_alike(rows(tmp_path / "moved"), rows(tmp_path / "one"))


def test_a_resume_with_as_many_processes_ends_with_the_same_bits(tmp_path: Path) -> None:
    calm = trained(tmp_path / "calm", SPEC, 2)
    trained(tmp_path / "stopped", SPEC, 2, stop_after=4, workers=1)
    torch.testing.assert_close(trained(tmp_path / "stopped", SPEC, 2, workers=1), calm, rtol=0, atol=0)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "calm")


@pytest.mark.parametrize("shard", ["none", "weights"])
def test_what_one_process_finds_not_finite_stops_all_before_the_update(
    shard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = step.student_losses

    def poisoned(*arguments: Any) -> Any:
        terms, monitors = losses(*arguments)
        if collectives.rank() == 1 and len(calls) == 3:
            terms["koleo"] = terms["koleo"][0], terms["koleo"][1] * torch.nan
        calls.append(None)
        return terms, monitors

    calls: list[None] = []
    monkeypatch.setattr(step, "student_losses", poisoned)
    said = trained(tmp_path / "run", SPEC, 2, checkpoint_seconds=1e-9, shard=shard)
    assert said == ["Diverged: the loss is nan at step 3"] * 2
    assert checkpoint.load(tmp_path / "run/checkpoint.pt")["step"] == 3
    assert json.loads((tmp_path / "run/diverged.json").read_text())["samples"] == [
        PICTURES.name(index) for index in Order(len(PICTURES), KEY)(torch.arange(24, 32).numpy()).tolist()
    ]


def test_means_are_of_all_processes_in_messages_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int) -> list[torch.Tensor]:
        tensors = [torch.full(shape, float(rank)) for shape in ((), (3, 2), (0,), (5,))]
        tensors.append(torch.full((2,), rank, dtype=torch.float64))
        collectives.average_over_ranks(tensors)
        return tensors

    for bytes_ in (1, 24, 1 << 20):
        monkeypatch.setattr(collectives, "MESSAGE", bytes_)
        for tensors in together(3, work):
            assert all(torch.equal(each, torch.ones_like(each)) for each in tensors)


@pytest.mark.parametrize(
    ("changes", "resources", "words"),
    [
        ({}, {"processes": 4}, r"4 processes would cut one of the 2 KoLeo groups of 4 images .*: 1, 2$"),
        (NO_KOLEO, {"processes": 3}, r"3 processes would cut one of the 8 images .*: 1, 2, 4, 8$"),
        ({}, {"processes": 2, "micro_batches": 4}, r"--micro-batches 4 .* one of the 2 .*: 1, 2$"),
    ],
)
def test_processes_that_would_cut_a_koleo_group_are_an_error(
    changes: dict[str, Any], resources: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Resources(**resources).check(with_(SPEC, changes))
