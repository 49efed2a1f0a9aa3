"""What each parameter's learning rate and weight decay are, by its name."""

import subprocess
import sys

import pytest
import torch

from dinov2lab.draws import Key
from dinov2lab.spec.model import ARCHITECTURES, ModelSpec
from dinov2lab.spec.run import Dino, Head, Ibot, ObjectiveSpec, OptimSpec, RunSpec, ViewsSpec
from dinov2lab.training import optimizer
from dinov2lab.training.optimizer import factors
from dinov2lab.training.schedules import Values
from dinov2lab.training.teacher import build_student

HEAD = Head(prototypes=8, hidden=16, bottleneck=4)
SPEC = RunSpec(
    views=ViewsSpec(global_px=32, local_px=16),
    model=ModelSpec(size="pico", patch=8),
    objective=ObjectiveSpec(dino=Dino(head=HEAD), ibot=Ibot(head=HEAD)),
    optim=OptimSpec(layer_decay=0.5, patch_embed_lr=0.2),
)
DEPTH = ARCHITECTURES["pico"].depth
VALUES = Values(lr=1.0, weight_decay=0.3, momentum=0.9, teacher_temperature=0.05, last_layer_frozen=False)


def settings_by_name(values: Values) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every parameter, as AdamW will use them."""
    student = build_student(SPEC, Key(0))
    built = optimizer.build(dict(student.items()), SPEC.optim)
    optimizer.schedule(built, values)
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    listed = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in built.param_groups
        for parameter in group["params"]
    ]
    assert sorted(name for name, _ in listed) == sorted(names.values()), "each parameter is in one group"
    return dict(listed)


@pytest.mark.parametrize(
    ("name", "lr", "decayed"),
    [
        ("backbone.vit.cls_token", 0.5**5, True),
        ("backbone.vit.pos_embed", 0.5**5, True),
        ("backbone.mask_token", 0.5**5, True),
        ("backbone.vit.patch_embed.proj.weight", 0.5**5 * 0.2, True),
        ("backbone.vit.patch_embed.proj.bias", 0.5**5 * 0.2, False),
        ("backbone.vit.blocks.0.attn.qkv.weight", 0.5**4, True),
        ("backbone.vit.blocks.0.norm1.weight", 0.5**4, False),
        ("backbone.vit.blocks.0.ls1.gamma", 0.5**4, False),
        ("backbone.vit.blocks.3.mlp.fc2.weight", 0.5, True),
        ("backbone.vit.blocks.3.mlp.fc2.bias", 0.5, False),
        ("backbone.vit.norm.weight", 1.0, False),
        ("backbone.vit.norm.bias", 1.0, False),
        ("dino_head.mlp.0.weight", 1.0, True),
        ("dino_head.mlp.0.bias", 1.0, False),
        ("dino_head.prototypes", 1.0, True),
        ("dino_head.prototype_scale", 1.0, True),
        ("ibot_head.prototypes", 1.0, True),
    ],
)
def test_learning_rate_and_decay_go_by_depth_and_kind(name, lr, decayed):
    assert settings_by_name(VALUES)[name] == (pytest.approx(lr), 0.3 if decayed else 0.0)


def test_only_last_layers_stand_still_while_they_are_frozen():
    frozen = {name for name, (lr, _) in settings_by_name(VALUES._replace(last_layer_frozen=True)).items() if lr == 0}
    assert frozen == {
        f"{head}.{part}" for head in ("dino_head", "ibot_head") for part in ("prototypes", "prototype_scale")
    }


def test_a_frozen_backbone_stands_still_whole_and_alone():
    frozen = {name for name, (lr, _) in settings_by_name(VALUES._replace(backbone_frozen=True)).items() if lr == 0}
    assert frozen == {f"backbone.{name}" for name, _ in build_student(SPEC, Key(0))["backbone"].named_parameters()}


def test_the_factors_of_a_vit_large_are_those_of_the_released_recipe():
    lowest = factors("backbone", "vit.pos_embed", 24, OptimSpec())
    patches = factors("backbone", "vit.patch_embed.proj.weight", 24, OptimSpec())
    assert lowest == (pytest.approx(0.0718, abs=1e-4), True, "backbone")
    assert patches == (pytest.approx(0.0144, abs=1e-4), True, "backbone")


def test_a_step_with_decay_alone_shrinks_what_is_decayed():
    """Decoupled, times the learning rate: parameter x (1 - lr x decay)."""
    student = build_student(SPEC, Key(0))
    built = optimizer.build(dict(student.items()), SPEC.optim)
    optimizer.schedule(built, VALUES._replace(lr=0.1))
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    for name, parameter in student.named_parameters():
        kind, decayed, _ = factors(name.split(".")[0], name.partition(".")[2], DEPTH, SPEC.optim)
        expected = before[name] * (1 - 0.1 * kind * (0.3 if decayed else 0))
        torch.testing.assert_close(parameter.detach(), expected)


def test_its_steps_are_those_of_torchs_own_class_bit_by_bit():
    """Also for a parameter that has no gradient at first."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
    ours, theirs = ([torch.nn.Parameter(each.clone()) for each in start] for _ in range(2))
    group = {"lr": 0.01, "weight_decay": 0.1}
    mine = optimizer.AdamW([{"params": ours, **group}], (0.9, 0.95))
    reference = torch.optim.AdamW([{"params": theirs, **group}], betas=(0.9, 0.95), fused=True)
    for step in range(4):
        for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = torch.randn(a.shape, generator=generator) if row == 0 or step > 1 else None
            b.grad = a.grad
        mine.step()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    torch.testing.assert_close(mine.state_dict()["state"], reference.state_dict()["state"], rtol=0, atol=0)
    mine.load_state_dict(reference.state_dict())
    torch.testing.assert_close(mine.state_dict()["state"], reference.state_dict()["state"], rtol=0, atol=0)


def test_it_imports_no_compiler():
    script = """
import sys, torch
from dinov2lab.training.optimizer import AdamW
weight = torch.nn.Parameter(torch.ones(2))
weight.grad = torch.ones(2)
AdamW([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], (0.9, 0.99)).step()
print("torch._dynamo" in sys.modules, weight.tolist()[0] < 1)
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True).split() == ["False", "True"]
