"""Attention over packed crops: each crop attends to itself alone.

B crops of one size   T tokens of a crop   D width   S = sum of B * T over the sizes: the packed tokens
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = Sequence[tuple[int, int]]  # (B, T) of each size


def split(x: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    """The packed rows (S, ...) of each size."""
    return torch.split(x, [b * t for b, t in shapes])


def attend(qkv: Tensor, shapes: Shapes, heads: int) -> Tensor:
    """(S, 3 D) queries, keys and values of packed tokens to (S, D) mixed values, before the output projection."""
    mixed = []
    for part, (b, t) in zip(split(qkv, shapes), shapes, strict=True):
        q, k, v = part.view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b * t, -1))
    return torch.cat(mixed)
