"""Frozen features: what evaluations and curation see of a network.

B images of a batch   D width   N patches   L of the last blocks
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dinov2lab.model.vit import Backbone
from dinov2lab.model.weights import Pretrained

Network = Backbone | Pretrained

LAST = 4  # blocks that the widest linear probe sees (DINOv2, appendix B.3)


def features(backbone: Network, batches: Iterable[Tensor]) -> Tensor:
    """(rows, D) class tokens on the CPU, of image batches (B, 3, H, W)."""
    return _each(backbone, batches, lambda images: backbone([images])[0].cls)


def patch_features(backbone: Network, batches: Iterable[Tensor]) -> Tensor:
    """(rows, N, D) patch tokens on the CPU, of image batches (B, 3, H, W)."""
    return _each(backbone, batches, lambda images: backbone.last(images, 1)[0].patches)


def block_features(backbone: Network, batches: Iterable[Tensor]) -> Tensor:
    """(rows, L + 1, D) class tokens of the last blocks, the last one's before the mean of its patch tokens."""

    def of(images: Tensor) -> Tensor:
        found = backbone.last(images, LAST)
        return torch.stack([*(tokens.cls for tokens in found), found[-1].patches.mean(1)], 1)

    return _each(backbone, batches, of)


def attention(backbone: Backbone, batches: Iterable[Tensor]) -> Tensor:
    """(rows, heads, N) what the class token of the last block attends to, on the CPU."""
    return _each(backbone, batches, backbone.attention)


@torch.inference_mode()
def _each(backbone: Network, batches: Iterable[Tensor], see: Callable[[Tensor], Tensor]) -> Tensor:
    device = next(backbone.parameters()).device
    backbone.eval()
    return torch.cat([see(batch.to(device, non_blocking=True)).float().cpu() for batch in batches])
