"""The projection head of DINO and iBOT (dinov2, layers/dino_head.py): three layers to a bottleneck, then prototypes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2lab.model.initial import draw
from dinov2lab.model.products import linear, scaled_linear
from dinov2lab.spec.model import LinearInit
from dinov2lab.spec.run import Head


class ProjectionHead(nn.Module):
    """(rows, D) backbone tokens to (rows, K) prototype scores, cosines times a learnt scale that starts at 1."""

    def __init__(self, dim: int, head: Head, linear_init: LinearInit = "truncated_normal") -> None:
        super().__init__()
        self.linear_init = linear_init
        self.mlp = nn.Sequential(
            nn.Linear(dim, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(head.prototypes, head.bottleneck))
        self.prototype_scale = nn.Parameter(torch.ones(head.prototypes, 1))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name == "prototype_scale":
                parameter.fill_(1.0)
            elif name == "prototypes":
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)  # only their directions count
            else:
                draw(parameter, self.linear_init, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        first, second, third = (layer for layer in self.mlp if isinstance(layer, nn.Linear))
        hidden = scaled_linear(scaled_linear(tokens, first), second, activation="gelu")
        bottleneck = F.normalize(scaled_linear(hidden, third, activation="gelu"), dim=-1)
        return linear(bottleneck, self.prototype_scale * F.normalize(self.prototypes, dim=-1))
