"""How the weights of linear layers are drawn.

The reference's truncated normal of 0.02 is made for widths of 384 and more. At width 64 its branches start a sixth as strong
as Xavier's, Adam's first steps are a twentieth of a weight's size, and what is learnt in the first hour is next to nothing
(docs/learning_on_small_hardware.md).
"""

import math

import torch
from torch import Tensor, nn

from dinov2lab.spec.model import LinearInit


def draw(weight: Tensor, how: LinearInit, generator: torch.Generator, parts: int = 1) -> None:
    """Fill `weight`, (outputs, inputs) or a convolution's (outputs, channels, p, p), in place.

    `xavier`: uniform within sqrt(6 / (inputs + outputs)) (Glorot and Bengio, 2010), where a weight that stacks `parts`
    layers, as queries, keys and values are, counts each for itself.
    """
    if how == "truncated_normal":
        nn.init.trunc_normal_(weight, std=0.02, generator=generator)
        return
    bound = math.sqrt(6 / (weight.shape[0] // parts + weight[0].numel()))
    weight.uniform_(-bound, bound, generator=generator)
