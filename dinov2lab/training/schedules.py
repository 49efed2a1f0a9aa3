"""Every value that changes during a run, as a pure function of the step (dinov2, train/train.py)."""

import math
from typing import NamedTuple

from dinov2lab.spec.run import ObjectiveSpec, OptimSpec


class Values(NamedTuple):
    lr: float
    weight_decay: float
    momentum: float  # of the teacher
    teacher_temperature: float
    last_layer_frozen: bool
    backbone_frozen: bool = False


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """From `start` at step 0 to `end` at step `steps`."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(step, steps) / steps))


def linear(start: float, end: float, step: int, steps: int) -> float:
    """From `start` at step 0 to `end` at step `steps`, then constant."""
    return end if step >= steps else start + (end - start) * step / steps


def values_at(step: int, optim: OptimSpec, objective: ObjectiveSpec) -> Values:
    teacher, warmup = objective.teacher, optim.warmup_steps
    if step < warmup:
        rise = linear if optim.warmup == "linear" else cosine
        lr = rise(0.0, optim.lr, step, warmup)
    else:
        lr = cosine(optim.lr, optim.lr_end, step - warmup, max(1, optim.steps - warmup))
    return Values(
        lr=lr,
        weight_decay=cosine(optim.weight_decay, optim.weight_decay_end, step, optim.steps),
        momentum=cosine(teacher.momentum, teacher.momentum_end, step, optim.steps),
        teacher_temperature=linear(
            teacher.temperature_start, teacher.temperature, step, teacher.temperature_warmup_steps
        ),
        last_layer_frozen=step < optim.freeze_last_layer_steps,
        backbone_frozen=step < optim.freeze_backbone_steps,
    )
