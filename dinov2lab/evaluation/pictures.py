"""What patch tokens and attention look like (DINOv2, section 7.5; Caron et al. 2021, figure 1), as pictures.

B images   N patches   S = sqrt(N) patches of a side   D width   h heads   P pixels of a side
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GAP = 2  # pixels between two pictures of a sheet
LEAST = 96  # pixels of a side: smaller pictures are drawn larger
_DARK = 0.15  # what is behind an object, beside its three components


def pca_colours(patches: Tensor) -> Tensor:
    """(B, S, S, 3) colours from 0 to 1 of patch tokens (B, N, D): one colour, one meaning over all of the images.

    The first component of all patches parts objects from ground; the first three of the objects' patches are red, green and
    blue. The side that holds fewer patches is taken for the objects, and the ground is dark.
    """
    images, count, width = patches.shape
    side, rows = math.isqrt(count), patches.reshape(-1, width).double()
    object_side = components(rows, 1)[:, 0] > 0
    object_side = object_side if 2 * int(object_side.sum()) <= len(rows) else ~object_side
    colours = torch.full((len(rows), 3), _DARK)
    if int(object_side.sum()) > 3:
        colours[object_side] = _stretched(components(rows[object_side], 3)).float()
    return colours.view(images, side, side, 3)


def components(rows: Tensor, count: int) -> Tensor:
    """(rows, count) the first principal components, the largest loading of each positive: no sign is by chance."""
    centred = rows - rows.mean(0)
    loadings = torch.linalg.svd(centred, full_matrices=False).Vh[:count]
    largest = loadings.gather(1, loadings.abs().argmax(1, keepdim=True))
    found = centred @ (loadings * largest.sign()).T
    padded: Tensor = F.pad(found, (0, count - found.shape[1]))
    return padded


def attention_maps(weights: Tensor) -> Tensor:
    """(B, h, S, S) from 0 to 1 of what class tokens attend to (B, h, N); each map has its own white."""
    side = math.isqrt(weights.shape[-1])
    relative = weights / weights.amax(-1, keepdim=True).clamp_min(1e-12)
    return relative.view(*weights.shape[:2], side, side)


def sheet(images: Tensor, colours: Tensor, maps: Tensor | None) -> Tensor:
    """(H, W, 3) bytes, a row for each of `images` (B, 3, P, P) in 0 to 1: itself, its components, its attention by head."""
    px = images.shape[-1] * max(1, LEAST // images.shape[-1])
    columns = [_drawn(images, px), _drawn(colours.permute(0, 3, 1, 2), px)]
    if maps is not None:
        columns += [_drawn(head[:, None].expand(-1, 3, -1, -1), px) for head in maps.unbind(1)]
    padded = [F.pad(column, (GAP, GAP, GAP, GAP), value=1.0) for column in columns]  # (B, 3, P + 2 gaps, ...)
    whole = torch.cat(padded, 3).transpose(0, 1).flatten(1, 2)  # (3, H, W)
    return whole.permute(1, 2, 0).clamp(0, 1).mul(255).round().to(torch.uint8)


def _drawn(small: Tensor, px: int) -> Tensor:
    return F.interpolate(small, size=(px, px), mode="nearest")


def _stretched(values: Tensor) -> Tensor:
    """Each column from 0 to 1."""
    low, high = values.amin(0), values.amax(0)
    return (values - low) / (high - low).clamp_min(1e-12)
