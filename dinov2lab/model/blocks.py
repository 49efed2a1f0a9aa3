"""A transformer block on the packed tokens of crops of several sizes, computing no more than stochastic depth keeps.

B crops of one size   T tokens of a crop   D width   S = sum of B * T over the sizes: the packed tokens   G sizes
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from dinov2lab.model.attention import Shapes, attend


class Kept(NamedTuple):
    """The crops that one residual branch computes; the others keep their tokens as they are."""

    crops: tuple[Tensor, ...]  # G tensors (kept,) of crop indices within their size
    scales: tuple[float, ...]  # G factors of the branch: crops of the size by kept ones


def forward(block: Block, x: Tensor, shapes: Shapes, heads: int, kept: tuple[Kept, Kept] | None) -> Tensor:
    """(S, D) tokens behind the block. `kept`: what its attention and its MLP branch compute; none computes all."""
    attention, mlp = kept or (None, None)
    x = _residual(x, shapes, attention, partial(_attention, block, heads))
    return _residual(x, shapes, mlp, partial(_mlp, block))


def _attention(block: Block, heads: int, x: Tensor, shapes: Shapes) -> Tensor:
    """The attention branch on packed tokens (S, D), each crop by itself."""
    out: Tensor = block.ls1(block.attn.proj(attend(block.attn.qkv(block.norm1(x)), shapes, heads)))
    return out


def _mlp(block: Block, x: Tensor, shapes: Shapes) -> Tensor:
    """The MLP branch, which does not care which token belongs to which crop."""
    out: Tensor = block.ls2(block.mlp(block.norm2(x)))
    return out


def _residual(x: Tensor, shapes: Shapes, kept: Kept | None, branch: Callable[[Tensor, Shapes], Tensor]) -> Tensor:
    """x + branch(x); with `kept`, of those crops alone and scaled so that its expectation stays, for crops of each size."""
    if kept is None:
        return x + branch(x, shapes)
    rows, scales, start = [], [], 0
    for crops, scale, (b, t) in zip(kept.crops, kept.scales, shapes, strict=True):
        rows.append((start + crops.to(x.device)[:, None] * t + torch.arange(t, device=x.device)).flatten())
        scales.append(x.new_full((len(crops) * t, 1), scale))
        start += b * t
    index = torch.cat(rows)
    kept_shapes = [(len(crops), t) for crops, (_, t) in zip(kept.crops, shapes, strict=True)]
    return x.index_add(0, index, (branch(x.index_select(0, index), kept_shapes) * torch.cat(scales)).to(x.dtype))
