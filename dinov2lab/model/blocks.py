"""A transformer block on the packed tokens of crops of several sizes, computing no more than stochastic depth keeps.

Weights have timm's names, so that they travel. timm itself is not imported to train: with all of its networks and torchvision
it would cost every process two seconds and 200 MB.

B crops of one size   T tokens of a crop   D width   S = sum of B * T over the sizes: the packed tokens   G sizes
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dinov2lab.model.attention import Shapes, attend, split
from dinov2lab.model.products import Activation, feed_forward, norm_linear, scaled_linear
from dinov2lab.spec.resources import Recompute

EPSILON = 1e-6  # of every norm of a backbone


class Kept(NamedTuple):
    """The crops that one residual branch computes; the others keep their tokens as they are."""

    crops: tuple[Tensor, ...]  # G tensors (kept,) of crop indices within their size
    scales: tuple[float, ...]  # G factors of the branch: crops of the size by kept ones


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.fc1 = nn.Linear(dim, 2 * hidden if activation == "swiglu" else hidden)  # gate and value stacked
        self.fc2 = nn.Linear(hidden, dim)


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))


class PackedBlock(nn.Module):
    """Its weights are used within a call of the block and nowhere else: so they may be elsewhere between calls
    (training/distributed.py)."""

    def __init__(self, dim: int, heads: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = FeedForward(dim, hidden, activation)
        self.ls2 = LayerScale(dim)

    def forward(
        self,
        x: Tensor,
        shapes: Shapes,
        kept: tuple[Kept, Kept] | None = None,
        recompute: Recompute = "nothing",
    ) -> Tensor:
        """Packed tokens (S, D) behind the block.

        `kept`: what the attention and the MLP branch compute; none computes all. x itself may be written to.
        """
        if recompute == "blocks" and torch.is_grad_enabled():
            again: Tensor = checkpoint(
                self._packed, x, shapes, kept, recompute, use_reentrant=False, preserve_rng_state=False
            )
            return again
        return self._packed(x, shapes, kept, recompute)

    def _packed(self, x: Tensor, shapes: Shapes, kept: tuple[Kept, Kept] | None, recompute: Recompute) -> Tensor:
        if kept is not None and (recompute == "blocks" or x._is_view()):
            # The residuals are added in place. What is computed again starts from x; and FSDP hands in a view of it.
            x = x.clone()
        of_attention, of_mlp = kept or (None, None)
        x = _residual(x, shapes, of_attention, self._attention)
        return _residual(x, shapes, of_mlp, partial(self._mlp, recompute == "hidden"))

    def _attention(self, x: Tensor, shapes: Shapes) -> Tensor:
        """The attention branch on packed tokens (S, D), each crop by itself."""
        mixed = attend(norm_linear(x, self.norm1, self.attn.qkv), shapes, self.attn.num_heads)
        return scaled_linear(mixed, self.attn.proj, self.ls1.gamma)

    def _mlp(self, again: bool, x: Tensor, shapes: Shapes) -> Tensor:
        """The MLP branch, which does not care which token belongs to which crop. `again`: its hidden layer is not kept."""
        activation = self.mlp.activation
        if again:
            return feed_forward(x, self.norm2, self.mlp.fc1, activation, self.mlp.fc2, self.ls2.gamma)
        hidden = norm_linear(x, self.norm2, self.mlp.fc1)
        return scaled_linear(hidden, self.mlp.fc2, self.ls2.gamma, activation)


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
