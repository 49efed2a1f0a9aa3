"""What the released recipes give every parameter at every stage of training, worked out by hand from the released files.

The recipes are the shipped ones, their networks as deep as they are and narrower, which no rule here depends on.
"""

import math
import re
from pathlib import Path

import pytest

from dinov2lab.draws import Key
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.model import ARCHITECTURES, Architecture
from dinov2lab.spec.run import RunSpec
from dinov2lab.training import optimizer
from dinov2lab.training.schedules import values_at
from dinov2lab.training.teacher import build_student

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
SMALL = ["prototypes=8", "hidden=16", "bottleneck=4"]


def recipe(name: str) -> RunSpec:
    return load_recipe(EXPERIMENTS / f"{name}.yaml")


def narrow(name: str, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    for size in ("large", "giant"):
        monkeypatch.setitem(ARCHITECTURES, size, Architecture(16, ARCHITECTURES[size].depth, 2))
    heads = [f"objective.dino.head.{each}" for each in SMALL]
    if recipe(name).objective.ibot.head is not None:
        heads += [f"objective.ibot.head.{each}" for each in SMALL]
    return load_recipe(EXPERIMENTS / f"{name}.yaml", heads)


def depth_factor(name: str, decay: float, depth: int) -> float:
    """Block i of L: decay ** (L - i); what lies below the blocks: decay ** (L + 1), the patch embedding a fifth of it."""
    if not name.startswith("backbone."):
        return 1.0
    if block := re.search(r"blocks\.(\d+)\.", name):
        return decay ** (depth - int(block[1]))
    if "patch_embed" in name:
        return 0.2 * decay ** (depth + 1)
    return 1.0 if name.startswith("backbone.vit.norm") else decay ** (depth + 1)


@pytest.mark.parametrize(
    ("name", "decay", "depth"), [("vitl16_short", 0.9, 24), ("vitl14", 1.0, 24), ("vitg14", 1.0, 40)]
)
@pytest.mark.parametrize("step", [0, 1249, 1250, 100_000])
def test_lr_and_decay_of_every_parameter(
    name: str, decay: float, depth: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = narrow(name, monkeypatch)
    student = build_student(spec, Key(0))
    values = values_at(step, spec.optim, spec.objective)
    built = optimizer.build(dict(student.items()), spec.optim)
    optimizer.schedule(built, values)
    names = {id(parameter): each for each, parameter in student.named_parameters()}
    seen = 0
    for group in built.param_groups:
        for parameter in group["params"]:
            each = names[id(parameter)]
            still = "prototype" in each and step < 1250
            assert group["lr"] == pytest.approx(0.0 if still else values.lr * depth_factor(each, decay, depth)), each
            plain = each.endswith(("bias", "gamma")) or ".norm" in each
            assert group["weight_decay"] == (0.0 if plain else values.weight_decay), each
            seen += 1
    assert seen == len(names)
    assert sum(f"blocks.{depth - 1}." in each for each in names.values()) > 10


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("step", "lr", "temperature"),
    [
        (0, 0.0, 0.04),
        (18_750, 3.464102e-4 * 0.1875, 0.055),
        (37_500, 3.464102e-4 * 0.375, 0.07),
        (100_000, 3.464102e-4, 0.07),
        (362_500, (3.464102e-4 + 1e-6) / 2, 0.07),
        (625_000, 1e-6, 0.07),
    ],
)
@pytest.mark.parametrize("name", ["vitl14", "vitg14"])
def test_the_long_recipes_values(name: str, step: int, lr: float, temperature: float) -> None:
    """625,000 steps: 80 "epochs" of 1,250 of warm-up, 30 of the temperature's."""
    spec = recipe(name)
    values = values_at(step, spec.optim, spec.objective)
    assert values.lr == pytest.approx(lr, rel=1e-6)
    assert values.teacher_temperature == pytest.approx(temperature)
    assert values.weight_decay == pytest.approx(cosine(0.04, 0.2, step / 625_000))
    assert values.momentum == pytest.approx(cosine(0.994, 1.0, step / 625_000))
