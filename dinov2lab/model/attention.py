"""Attention over packed crops: each crop attends to itself alone.

B crops of one size   T tokens of a crop   D width   h heads   S = sum of B * T over the sizes: the packed tokens
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Shapes = Sequence[tuple[int, int]]  # (B, T) of each size

SHORT = 128  # tokens: up to here the whole matrix of weights beats the kernels that avoid it, on the CPU


def split(x: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    """The packed rows (S, ...) of each size."""
    return torch.split(x, [b * t for b, t in shapes])


def attend(qkv: Tensor, shapes: Shapes, heads: int) -> Tensor:
    """(S, 3 D) queries, keys and values of packed tokens to (S, D) mixed values, before the output projection."""
    if qkv.device.type == "cpu" and max(t for _, t in shapes) <= SHORT:
        out: Tensor = _Short.apply(qkv, shapes, heads)
        return out
    mixed, width = [], qkv.shape[1] // (3 * heads)
    for part, (b, t) in zip(split(qkv, shapes), shapes, strict=True):
        q, k, v = part.view(b, t, 3, heads, width).permute(2, 0, 3, 1, 4)  # each (B, h, T, D / h)
        mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b * t, -1))
    return torch.cat(mixed)


class _Short(torch.autograd.Function):
    """Attention by plain products, each size's results written where they belong."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, shapes: Shapes, heads: int) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        kept, width = [], out.shape[1] // heads
        for part, mixed, (b, t) in zip(split(qkv, shapes), split(out, shapes), shapes, strict=True):
            qkv_heads = part.view(b, t, 3, heads, width).permute(2, 0, 3, 1, 4).reshape(3, b * heads, t, width)
            q, k, v = qkv_heads  # each (B h, T, D / h)
            weights = _scores(q, k).softmax(-1)  # (B h, T, T)
            mixed.view(b, t, heads, width).copy_(torch.bmm(weights, v).view(b, heads, t, width).transpose(1, 2))
            kept += [qkv_heads, weights]
        ctx.save_for_backward(*kept)
        ctx.shapes, ctx.heads = shapes, heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        shapes, heads, saved = ctx.shapes, ctx.heads, ctx.saved_tensors
        out = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
        width = gradient.shape[1] // heads
        of_sizes = zip(split(gradient, shapes), split(out, shapes), shapes, strict=True)
        for size, (of_mixed, of_qkv, (b, t)) in enumerate(of_sizes):
            (q, k, v), weights = saved[2 * size], saved[2 * size + 1]
            of_mixed = of_mixed.view(b, t, heads, width).transpose(1, 2).reshape(b * heads, t, width)
            of_scores = torch._softmax_backward_data(torch.bmm(of_mixed, v.transpose(1, 2)), weights, -1, weights.dtype)
            of_scores *= q.shape[-1] ** -0.5
            parts = torch.empty(3, *q.shape, dtype=q.dtype)  # of queries, keys and values
            torch.bmm(of_scores, k, out=parts[0])
            torch.bmm(of_scores.transpose(1, 2), q, out=parts[1])
            torch.bmm(weights.transpose(1, 2), of_mixed, out=parts[2])
            of_qkv.view(b, t, 3, heads, width).copy_(parts.view(3, b, heads, t, width).permute(1, 3, 0, 2, 4))
        return out, None, None


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """(B h, T, T) scaled products of queries and keys."""
    return torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
