"""The two fixed pieces of work of the side-by-side measurements, as recipes of ours, and what a step needs of them.

W1: 16 images, patch 14, 2 x 98 + 8 x 42 px.   W2: 64 images, patch 4, 2 x 32 + 6 x 16 px.
Both: ViT-Tiny, separate heads of 4,096 prototypes, half of the crops masked by 10 to 50 %, KoLeo 0.1, Sinkhorn-Knopp, clip 3.
"""

import torch

from dinov2lab.data.views import block_masks
from dinov2lab.draws import Key
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.run import (
    Dino,
    Head,
    Ibot,
    Koleo,
    ObjectiveSpec,
    OptimSpec,
    RunSpec,
    Teacher,
    ViewsSpec,
)
from dinov2lab.training.step import Batch

SIZES = {
    "W1": {"batch": 16, "patch": 14, "global_px": 98, "local_px": 42, "local_crops": 8},
    "W2": {"batch": 64, "patch": 4, "global_px": 32, "local_px": 16, "local_crops": 6},
}


def recipe(name: str, drop_path: float = 0.1) -> RunSpec:
    """Nothing frozen and no warm-up, so that every step does all of the work."""
    size, head = dict(SIZES[name]), Head(prototypes=4096)
    batch, patch = size.pop("batch"), size.pop("patch")
    return RunSpec(
        views=ViewsSpec(**size),
        model=ModelSpec(size="tiny", patch=patch, drop_path=drop_path),
        objective=ObjectiveSpec(
            dino=Dino(head=head), ibot=Ibot(head=head), koleo=Koleo(group=batch), teacher=Teacher(centering="sinkhorn")
        ),
        optim=OptimSpec(batch=batch, steps=100_000, lr=1e-3, warmup_steps=0, freeze_last_layer_steps=0),
    )


def synthetic_crops(spec: RunSpec) -> tuple[torch.Tensor, ...]:
    """Global crops (2 B, 3, H, W), then local ones, of noise."""
    generator = torch.Generator().manual_seed(0)
    views, batch = spec.views, spec.optim.batch
    sizes = [(2 * batch, views.global_px), (views.local_crops * batch, views.local_px)]
    return tuple(torch.randn(count, 3, px, px, generator=generator) for count, px in sizes if count)


def with_masks(crops: tuple[torch.Tensor, ...], step: int, spec: RunSpec, key: Key) -> Batch:
    """Drawing the masks is part of a step, cutting the crops is not."""
    grid = spec.views.global_px // spec.model.patch
    return Batch(crops, block_masks(step, len(crops[0]), grid, key, spec.objective.ibot.masks))
