"""FLOPs against counts by hand and by torch's own counter."""

from unittest.mock import patch

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinov2lab.draws import Key
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.cost import flops_of_image, flops_of_run, images_of_run, tokens
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.run import Dino, Distillation, Head, Ibot, Masks, ObjectiveSpec, OptimSpec, RunSpec, ViewsSpec
from dinov2lab.training.teacher import build_student

HEAD, OTHER = Head(prototypes=40, hidden=24, bottleneck=8), Head(prototypes=56, hidden=32, bottleneck=16)
HALF = Masks(ratio=(0.25, 0.75))  # half of the patches of half of the crops: a quarter of all


def spec(
    local_crops: int = 3, dino: float = 1.0, ibot: float = 1.0, head: Head | None = OTHER, **model: object
) -> RunSpec:
    return RunSpec(
        views=ViewsSpec(global_px=32, local_px=16, local_crops=local_crops),
        model=ModelSpec(size="pico", patch=8, **model),
        objective=ObjectiveSpec(dino=Dino(weight=dino, head=HEAD), ibot=Ibot(weight=ibot, head=head, masks=HALF)),
        optim=OptimSpec(batch=64, steps=10, warmup_steps=0),
    )


def counted(module: torch.nn.Module, *inputs: object) -> int:
    counter = FlopCounterMode(display=False)
    with (
        counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),  # not every release counts the fused kernels of the CPU
        patch("dinov2lab.model.products._onednn", return_value=False),  # and none those of oneDNN
    ):
        module(*inputs)
    return counter.get_total_flops()


def test_a_crop_has_a_token_for_each_patch_and_one_for_the_class():
    assert [tokens(px, patch) for px, patch in ((224, 16), (98, 14), (16, 8), (8, 8))] == [197, 50, 5, 2]


def test_the_count_by_hand_of_a_vit_small_of_the_paper():
    """S/16 on 224 pixels: 4.6 billion multiply-adds forward (DeiT, table 5), of 197 tokens, 384 wide, 12 blocks."""
    one = RunSpec(views=ViewsSpec(local_crops=0), objective=ObjectiveSpec(dino=Dino(weight=0), ibot=Ibot(weight=0)))
    block = 2 * 197 * 384 * (3 * 384 + 384 + 2 * 4 * 384) + 2 * 2 * 197 * 197 * 384
    patches = 2 * 196 * (16 * 16 * 3) * 384
    assert 12 * block + patches == pytest.approx(2 * 4.6e9, rel=0.01)
    # two crops: the teacher forward, the student forward and twice that backward, but for the pixels' gradient
    assert flops_of_image(one) == 2 * (4 * 12 * block + 3 * patches)


@pytest.mark.parametrize("head", [OTHER, None])
@pytest.mark.parametrize("local_crops", [0, 3])
@pytest.mark.parametrize("model", [{}, {"ffn": "swiglu"}, {"registers": 4}])
def test_the_count_is_what_torch_counts_in_each_network(head, local_crops, model):
    asked = spec(local_crops, head=head, **model)
    student = build_student(asked, Key(0))
    backbone = student["backbone"]
    assert isinstance(backbone, Backbone)
    token = torch.zeros(1, 64)
    big, small = (counted(backbone, [torch.zeros(1, 3, px, px)]) for px in (32, 16))
    embed_big, embed_small = (counted(backbone.vit.patch_embed.proj, torch.zeros(1, 3, px, px)) for px in (32, 16))
    dino = counted(student["dino_head"], token)
    ibot = counted(student["ibot_head" if head else "dino_head"], token)
    teacher = 2 * big + 2 * dino + 8 * ibot  # a quarter of 2 x 16 patches
    student_forward = 2 * (big + dino) + local_crops * (small + dino) + 8 * ibot
    backward = 2 * student_forward - 2 * embed_big - local_crops * embed_small
    assert flops_of_image(asked) == teacher + student_forward + backward


def test_a_frozen_teacher_is_counted_with_its_own_size_and_all_tokens_are_counted():
    larger = spec().model_copy(update={"model": ModelSpec(size="nano", patch=8)})
    ibot = Ibot(head=OTHER, masks=HALF, tokens="all")
    objective = ObjectiveSpec(dino=Dino(head=HEAD), ibot=ibot, distill=Distillation(kind="run", run=larger))
    asked = spec().model_copy(update={"objective": objective})
    backbone = build_student(larger, Key(0))["backbone"]
    heads = [build_student(larger, Key(0))[name] for name in ("dino_head", "ibot_head")]
    dino, patches = (counted(head, torch.zeros(1, 128)) for head in heads)
    ours, own_dino, own_patches = (
        counted(build_student(spec(), Key(0))[name], *what)
        for name, what in (
            ("backbone", ([torch.zeros(1, 3, 32, 32)],)),
            ("dino_head", (torch.zeros(1, 64),)),
            ("ibot_head", (torch.zeros(1, 64),)),
        )
    )
    theirs = 2 * counted(backbone, [torch.zeros(1, 3, 32, 32)]) + 2 * dino + 32 * patches
    replaced = 2 * ours + 2 * own_dino + 8 * own_patches  # the teacher of before
    more = 3 * (32 - 8) * own_patches  # student's tokens
    assert flops_of_image(asked) == flops_of_image(spec()) - replaced + theirs + more


def test_terms_that_are_off_cost_nothing():
    whole, no_ibot, no_dino, none = (flops_of_image(spec(dino=d, ibot=i)) for d, i in ((1, 1), (1, 0), (0, 1), (0, 0)))
    dino = 2 * (64 * 24 + 24 * 24 + 24 * 8 + 8 * 40)
    ibot = 2 * (64 * 32 + 32 * 32 + 32 * 16 + 16 * 56)
    assert whole - no_dino == no_ibot - none == (3 * 5 + 2) * dino
    assert whole - no_ibot == no_dino - none == 4 * 8 * ibot


def test_a_run_costs_its_images():
    assert images_of_run(spec()) == 640
    assert flops_of_run(spec()) == 640 * flops_of_image(spec())
