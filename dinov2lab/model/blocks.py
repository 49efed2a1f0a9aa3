"""A transformer block on the packed tokens of crops of several sizes, computing no more than stochastic depth keeps.

B crops of one size   T tokens of a crop   D width   S = sum of B * T over the sizes: the packed tokens   G sizes
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from timm.layers import GluMlp
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dinov2lab.model.attention import Shapes, attend, split
from dinov2lab.model.products import Activation, feed_forward, norm_linear, scaled_linear
from dinov2lab.spec.resources import Recompute


class Kept(NamedTuple):
    """The crops that one residual branch computes; the others keep their tokens as they are."""

    crops: tuple[Tensor, ...]  # G tensors (kept,) of crop indices within their size
    scales: tuple[float, ...]  # G factors of the branch: crops of the size by kept ones


def forward(
    blocks: Sequence[Block],
    x: Tensor,
    shapes: Shapes,
    heads: int,
    kept: Sequence[tuple[Kept, Kept]] | None,
    recompute: Recompute,
) -> Tensor:
    """(S, D) tokens behind all blocks. `kept`: what attention and MLP branch of each compute; none computes all."""
    for index, block in enumerate(blocks):
        one = partial(_block, block, shapes, heads, kept[index] if kept else (None, None), recompute)
        if recompute == "blocks" and torch.is_grad_enabled():
            x = checkpoint(one, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = one(x)
    return x


def _block(
    block: Block, shapes: Shapes, heads: int, kept: tuple[Kept | None, Kept | None], recompute: Recompute, x: Tensor
) -> Tensor:
    if recompute == "blocks" and kept[0] is not None:
        x = x.clone()  # what is computed again starts from x, and the residuals are added in place
    x = _residual(x, shapes, kept[0], partial(_attention, block, heads))
    return _residual(x, shapes, kept[1], partial(_mlp, block, recompute == "hidden"))


def _attention(block: Block, heads: int, x: Tensor, shapes: Shapes) -> Tensor:
    """The attention branch on packed tokens (S, D), each crop by itself."""
    mixed = attend(norm_linear(x, block.norm1, block.attn.qkv), shapes, heads)
    return scaled_linear(mixed, block.attn.proj, block.ls1.gamma)


def _mlp(block: Block, again: bool, x: Tensor, shapes: Shapes) -> Tensor:
    """The MLP branch, which does not care which token belongs to which crop. `again`: its hidden layer is not kept."""
    activation: Activation = "swiglu" if isinstance(block.mlp, GluMlp) else "gelu"
    if again:
        return feed_forward(x, block.norm2, block.mlp.fc1, activation, block.mlp.fc2, block.ls2.gamma)
    hidden = norm_linear(x, block.norm2, block.mlp.fc1)
    return scaled_linear(hidden, block.mlp.fc2, block.ls2.gamma, activation)


def _residual(x: Tensor, shapes: Shapes, kept: Kept | None, branch: Callable[[Tensor, Shapes], Tensor]) -> Tensor:
    """x + branch(x); with `kept`, of those crops alone, scaled so that its expectation stays, and in place."""
    if kept is None:
        return x + branch(x, shapes)
    rows, start = [], 0
    for crops, (b, t) in zip(kept.crops, shapes, strict=True):
        rows.append((start + crops.to(x.device)[:, None] * t + torch.arange(t, device=x.device)).flatten())
        start += b * t
    kept_shapes = [(len(crops), t) for crops, (_, t) in zip(kept.crops, shapes, strict=True)]
    out = branch(x.index_select(0, torch.cat(rows)), kept_shapes).to(x.dtype)
    for index, part, scale in zip(rows, split(out, kept_shapes), kept.scales, strict=True):
        x.index_add_(0, index, part, alpha=scale)
    return x
