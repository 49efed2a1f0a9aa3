"""Linear segmentation on frozen patch tokens (DINOv2, section 7.4): one linear layer, its scores drawn up to the image.

B images   P pixels of a side   N patches   D width   C classes   R learning rates
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2lab.evaluation.linear import Probes, train_probes

IGNORED = 255  # in a mask: a pixel of no known class
_IMAGES = 64  # segmented at once


def segmentation_mious(
    memory: Tensor,
    memory_masks: Tensor,
    queries: Tensor,
    masks: Tensor,
    *,
    lrs: Sequence[float],
    epochs: int,
    batch: int,
) -> dict[float, float]:
    """Mean intersection over union on `queries` of the probe of each learning rate, trained on `memory`.

    `memory`, `queries`: (B, N, D) patch tokens. Masks: (B, P, P) uint8 of classes, P a multiple of the grid's side.
    The mean is over the classes that the masks of the queries hold.
    """
    classes = 1 + max(int(each[each != IGNORED].max()) for each in (memory_masks, masks))
    shares = patch_shares(memory_masks, math.isqrt(memory.shape[1]), classes).flatten(0, 1)  # (B N, C)
    known = shares.sum(1) > 0
    probes = train_probes(memory.flatten(0, 1)[known], shares[known], lrs, epochs, batch)
    confusion = sum(
        _confusion(probes, tokens, truth, classes)
        for tokens, truth in zip(queries.split(_IMAGES), masks.split(_IMAGES), strict=True)
    )
    assert isinstance(confusion, Tensor)
    return dict(zip(lrs, mean_iou(confusion).tolist(), strict=True))


def patch_shares(masks: Tensor, side: int, classes: int) -> Tensor:
    """(B, N, C) the share of each class among those pixels of a patch that have one; zeros where none has."""
    px = masks.shape[-1] // side
    share = [F.avg_pool2d((masks == number).float()[:, None], px).flatten(1) for number in range(classes)]
    counts = (torch.stack(share, -1) * px**2).round()  # (B, N, C) pixels
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)


def _confusion(probes: Probes, tokens: Tensor, masks: Tensor, classes: int) -> Tensor:
    """(R, C, C) pixels by true and predicted class."""
    images, count, width = tokens.shape
    side = math.isqrt(count)
    scores = probes.scores(tokens.reshape(-1, width)).view(-1, images, side, side, classes)  # (R, B, side, side, C)
    known = masks != IGNORED
    found = []
    for each in scores.permute(0, 1, 4, 2, 3):
        drawn = F.interpolate(each, size=masks.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
        pairs = masks[known].long() * classes + drawn[known]
        found.append(torch.bincount(pairs, minlength=classes**2).view(classes, classes))
    return torch.stack(found)


def mean_iou(confusion: Tensor) -> Tensor:
    """(R,) over the classes that are there, of (R, C, C) pixels by true and predicted class."""
    both = confusion.diagonal(dim1=1, dim2=2).float()
    truth = confusion.sum(2)
    either = truth + confusion.sum(1) - both
    there = truth > 0
    return (both / either.clamp_min(1)).where(there, 0.0).sum(1) / there.sum(1)
