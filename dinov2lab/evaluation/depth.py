"""Linear depth on frozen patch tokens (DINOv2, section 7.4): one linear layer chooses among depths, drawn up to the image.

B images   P pixels of a side   N patches   D width   K depths to choose among   R learning rates
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2lab.draws import Key, uniforms
from dinov2lab.evaluation.linear import Probes, train_probes
from dinov2lab.evaluation.segmentation import IGNORED, patch_shares

UNKNOWN = 0.0  # in a map of depths
PAIRS = 1000  # of pixels of each image, whose order is asked for
_IMAGES = 64  # at once


class Depths(NamedTuple):
    near: float  # share of the pixels less than 25 % off: the field's delta 1
    order: float  # share of pairs of pixels of different depth of which the right one is called nearer
    rmse: float  # in units of the depth


def depth_errors(
    memory: Tensor,
    memory_depths: Tensor,
    queries: Tensor,
    depths: Tensor,
    *,
    lrs: Sequence[float],
    epochs: int,
    batch: int,
    bins: int,
) -> dict[float, Depths]:
    """Of the probe of each learning rate, trained on `memory`, tested on `queries`: (B, N, D) patch tokens.

    Depths: (B, P, P), P a multiple of the grid's side, more than 0 where they are known. The probe chooses among `bins` steps
    from the least to the greatest depth of the memory; what it says is their mean, weighted by its choice.
    """
    known = memory_depths[memory_depths > UNKNOWN]
    steps = torch.linspace(float(known.min()), float(known.max()), bins)
    shares = patch_shares(nearest_step(memory_depths, steps), math.isqrt(memory.shape[1]), bins).flatten(0, 1)
    seen = shares.sum(1) > 0
    probes = train_probes(memory.flatten(0, 1)[seen], shares[seen], lrs, epochs, batch)
    parts = [predicted(probes, tokens, steps, depths.shape[-1]) for tokens in queries.split(_IMAGES)]
    return {lr: compared(said, depths) for lr, said in zip(lrs, torch.cat(parts, 1), strict=True)}


def nearest_step(depths: Tensor, steps: Tensor) -> Tensor:
    """(B, P, P) uint8 which of `steps` (K,) a depth is nearest to; IGNORED where none is known."""
    place = ((depths - steps[0]) / (steps[1] - steps[0]).clamp_min(1e-12)).round().clamp(0, len(steps) - 1)
    return place.where(depths > UNKNOWN, float(IGNORED)).to(torch.uint8)


def predicted(probes: Probes, tokens: Tensor, steps: Tensor, px: int) -> Tensor:
    """(R, B, P, P) depths."""
    images, count, width = tokens.shape
    side = math.isqrt(count)
    scores = probes.scores(tokens.reshape(-1, width)).view(-1, images, side, side, len(steps))  # (R, B, side, side, K)
    drawn = [F.interpolate(each, size=(px, px), mode="bilinear") for each in scores.permute(0, 1, 4, 2, 3)]
    return torch.stack([(each.softmax(1) * steps.view(-1, 1, 1)).sum(1) for each in drawn])


def compared(said: Tensor, truth: Tensor) -> Depths:
    """Over all pixels (B, P, P) of known depth."""
    known = truth > UNKNOWN
    ours, theirs = said[known].double(), truth[known].double()
    near = torch.maximum(ours / theirs, theirs / ours.clamp_min(1e-12)) < 1.25
    return Depths(float(near.double().mean()), _ordered(said, truth), float((ours - theirs).square().mean().sqrt()))


def _ordered(said: Tensor, truth: Tensor) -> float:
    """The same pairs of places in every image and for every network."""
    pixels = truth.shape[-1] ** 2
    a, b = torch.from_numpy((uniforms(Key(0), "depth/pairs", range(PAIRS), 2) * pixels).astype(int)).T
    said, truth = said.flatten(1), truth.flatten(1)
    asked = (truth[:, a] > UNKNOWN) & (truth[:, b] > UNKNOWN) & (truth[:, a] != truth[:, b])
    right = ((said[:, a] < said[:, b]) == (truth[:, a] < truth[:, b])) & (said[:, a] != said[:, b])
    return float((right & asked).sum() / asked.sum().clamp_min(1))
