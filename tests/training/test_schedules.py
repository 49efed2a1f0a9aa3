"""Schedules against the numbers of the released ViT-L/16 recipe, which are the defaults."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov2lab.spec.run import ObjectiveSpec, OptimSpec, Teacher
from dinov2lab.training.schedules import values_at

OPTIM, OBJECTIVE = OptimSpec(), ObjectiveSpec()
EPOCH = 1250  # steps


@pytest.mark.parametrize(
    ("epoch", "lr", "weight_decay", "momentum", "temperature"),
    [
        (0, 0.0, 0.04, 0.992, 0.04),
        (5, 4e-3 * math.sqrt(2) / 2, 0.04 + 0.36 * (1 - math.cos(math.pi * 0.05)) / 2, 0.992049, 0.045),
        (10, 4e-3 * math.sqrt(2), 0.04 + 0.36 * (1 - math.cos(math.pi * 0.1)) / 2, 0.992196, 0.05),
        (30, 0.00499506, 0.114203, 0.993649, 0.07),  # 5.66e-3 (1 + cos(2 pi / 9)) / 2: two ninths of the way down
        (55, 5.66e-3 / 2, 0.248158, 0.996626, 0.07),
        (100, 1e-6, 0.4, 1.0, 0.07),
    ],
)
def test_the_values_are_those_of_vitl16_short(epoch, lr, weight_decay, momentum, temperature):
    values = values_at(epoch * EPOCH, OPTIM, OBJECTIVE)
    assert values.lr == pytest.approx(lr, rel=1e-3, abs=1e-9)
    assert values.weight_decay == pytest.approx(weight_decay, rel=1e-4)
    assert values.momentum == pytest.approx(momentum, abs=2e-6)
    assert values.teacher_temperature == pytest.approx(temperature, rel=1e-9)


def test_the_last_layer_is_frozen_for_one_epoch():
    frozen = [values_at(step, OPTIM, OBJECTIVE).last_layer_frozen for step in range(EPOCH + 2)]
    assert frozen == [True] * EPOCH + [False] * 2


def test_a_cosine_warmup_has_the_ends_and_the_middle_of_a_linear_one():
    shapes = [OptimSpec(warmup=shape) for shape in ("linear", "cosine")]
    lrs = [[values_at(share * 12500 // 4, optim, OBJECTIVE).lr for share in range(5)] for optim in shapes]
    assert lrs[0] == pytest.approx([0.0, *(5.66e-3 * share / 4 for share in (1, 2, 3, 4))])
    assert lrs[1] == pytest.approx([5.66e-3 * (1 - math.cos(math.pi * share / 4)) / 2 for share in range(5)])


def test_the_backbone_is_frozen_for_as_long_as_asked():
    frozen = [values_at(step, OptimSpec(freeze_backbone_steps=3), OBJECTIVE).backbone_frozen for step in range(5)]
    assert frozen == [True] * 3 + [False] * 2


@given(st.integers(1, 500), st.data())
def test_schedules_stay_within_their_ends_and_move_one_way(steps, data):
    warmup = data.draw(st.integers(0, steps))
    optim = OptimSpec(steps=steps, warmup_steps=warmup)
    teacher = Teacher(temperature_warmup_steps=data.draw(st.integers(0, 600)))
    rows = [values_at(step, optim, ObjectiveSpec(teacher=teacher)) for step in range(steps + 1)]
    lr, decay, momentum, temperature, *_ = zip(*rows, strict=True)
    assert list(lr[: warmup + 1]) == sorted(lr[: warmup + 1])
    assert list(lr[warmup:]) == sorted(lr[warmup:], reverse=True)
    assert max(lr) == pytest.approx(optim.lr)
    assert lr[-1] == pytest.approx(optim.lr_end) or warmup == steps
    for values, ends in ((decay, (0.04, 0.4)), (momentum, (0.992, 1.0)), (temperature, (0.04, 0.07))):
        assert list(values) == sorted(values)
        assert ends[0] - 1e-12 <= values[0] <= values[-1] <= ends[1] + 1e-12
