"""Frozen features: what evaluations and curation see of a network."""

from collections.abc import Iterable

import torch
from torch import Tensor

from dinov2lab.model.vit import Backbone
from dinov2lab.model.weights import Pretrained


@torch.inference_mode()
def features(backbone: Backbone | Pretrained, batches: Iterable[Tensor]) -> Tensor:
    """(rows, D) class tokens on the CPU, of image batches (B, 3, H, W)."""
    device = next(backbone.parameters()).device
    backbone.eval()
    return torch.cat([backbone([batch.to(device, non_blocking=True)])[0].cls.float().cpu() for batch in batches])


@torch.inference_mode()
def patch_features(backbone: Backbone, batches: Iterable[Tensor]) -> Tensor:
    """(rows, N, D) patch tokens on the CPU, of image batches (B, 3, H, W)."""
    device = next(backbone.parameters()).device
    backbone.eval()
    return torch.cat([backbone([batch.to(device, non_blocking=True)])[0].patches.float().cpu() for batch in batches])
