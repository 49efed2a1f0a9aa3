"""Micro-batches, one after the other or side by side, and what is computed again: the same step, to rounding."""

from typing import Any

import pytest
import torch
from short_run import SPEC, with_
from test_step import EMA, KEY, OFF, SHARED, begun

from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.training.parts import Part, Parts
from dinov2lab.training.step import Diverged, State, train_step


def stepped(spec: RunSpec, resources: Resources) -> tuple[dict[str, float], State]:
    """One step, from weights in which every part plays a role."""
    resources.check(spec)
    state, batch = begun(spec)
    logged = train_step(state, batch, spec, KEY, Parts(resources))
    return {name: float(value) for name, value in logged.items()}, state


@pytest.mark.parametrize(
    "cut",
    [
        {"micro_batches": 2},
        {"micro_batches": 4},
        {"side_by_side": 2},
        {"micro_batches": 2, "side_by_side": 2, "threads": 2},
        {"micro_batches": 4, "recompute": "hidden"},
        {"recompute": "blocks"},
    ],
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        SHARED | EMA,
        {"views.local_crops": 0},
        {"model.drop_path": 0.9} | OFF["koleo"],
        {"model.drop_path": 0.5},
        OFF["ibot"],
        {"model.ffn": "swiglu"},
    ],
)
def test_a_step_in_parts_is_the_step_of_the_whole_batch(changes: dict[str, Any], cut: dict[str, Any]) -> None:
    spec = with_(SPEC, {"optim.warmup_steps": 0, **changes})
    (whole, state), (parts, other) = stepped(spec, Resources()), stepped(spec, Resources(**cut))
    assert parts.pop("gradient/norm") == pytest.approx(whole.pop("gradient/norm"), rel=1e-4)
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(tuple(other.centres), tuple(state.centres), rtol=1e-5, atol=1e-7)
    for (name, ours), theirs in zip(other.student.named_parameters(), state.student.parameters(), strict=True):
        if theirs.grad is None or ours.grad is None:
            assert ours.grad is theirs.grad, name
        else:
            assert float((ours.grad - theirs.grad).norm()) <= 1e-4 * float(theirs.grad.norm()), name
    # AdamW's first step is the gradient's sign times lr, whatever the gradient's size: equal but where that is rounding.
    for ours, theirs in zip(other.teacher.parameters(), state.teacher.parameters(), strict=True):
        assert float((ours - theirs).abs().mean()) < 1e-3 * spec.optim.lr * (1 - spec.objective.teacher.momentum)


def test_parts_side_by_side_end_with_the_same_bits_whichever_ends_first() -> None:
    first, second = (stepped(SPEC, Resources(side_by_side=4, threads=1))[1].student.state_dict() for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_parts_are_runs_that_cover_each_row_once() -> None:
    for total, count in ((16, 4), (10, 4), (3, 4), (0, 2)):
        rows = [Part(number, count).rows(total) for number in range(count)]
        assert [row for part in rows for row in range(total)[part]] == list(range(total))


def test_a_part_that_would_cut_a_koleo_group_is_an_error_that_names_those_that_do_not() -> None:
    spec = with_(SPEC, {"objective.koleo.group": 4})  # 16 global crops: 4 groups
    with pytest.raises(ValueError, match=r"--micro-batches 8 x --side-by-side 1 would cut one of the 4 .*: 1, 2, 4$"):
        Resources(micro_batches=8).check(spec)
    with pytest.raises(ValueError, match=r"1, 2, 4$"):
        Resources(side_by_side=3).check(spec)
    Resources(micro_batches=2, side_by_side=2).check(spec)
    Resources(micro_batches=8).check(with_(spec, OFF["koleo"]))


def test_a_loss_of_one_part_that_is_not_finite_changes_nothing() -> None:
    state, batch = begun(SPEC)
    before = {name: value.clone() for name, value in state.student.state_dict().items()}
    batch.crops[0][-1, 0, 0, 0] = torch.nan
    with pytest.raises(Diverged, match="step 0"):
        train_step(state, batch, SPEC, KEY, Parts(Resources(micro_batches=2, side_by_side=2)))
    torch.testing.assert_close(state.student.state_dict(), before, rtol=0, atol=0)
