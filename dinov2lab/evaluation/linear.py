"""Linear probes on frozen features: one for each learning rate, trained at once (dinov2, eval/linear.py).

R learning rates   D feature width   C classes   B rows of a batch
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2lab.draws import Key, permutation

_MOMENTUM = 0.9


class Kind(NamedTuple):
    """Which frozen features a probe reads (DINOv2, appendix B.3)."""

    blocks: int = 1  # the class tokens of so many last blocks
    average: bool = False  # and the mean of the patch tokens

    def of(self, blocks: Tensor) -> Tensor:
        """(rows, W) of (rows, L + 1, D): class tokens, the last block's before the mean of the patch tokens."""
        tokens = blocks[:, :-1][:, -self.blocks :].flatten(1)
        return torch.cat([tokens, blocks[:, -1]], 1) if self.average else tokens


class Probes(NamedTuple):
    """Softmax regressions on standardised features, so that one grid of learning rates serves features of any scale."""

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,)
    weights: Tensor  # (R, D + 1, C), the bias last

    def scores(self, features: Tensor) -> Tensor:
        """(R, rows, C) of (rows, D)."""
        x = (features.float() - self.mean) / self.deviation
        return x @ self.weights[:, :-1] + self.weights[:, -1:]


def linear_accuracies(
    memory: Tensor,
    memory_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    lrs: Sequence[float],
    epochs: int,
    batch: int,
) -> dict[float, float]:
    """Accuracy on `queries` (Q, D) of the probe of each learning rate, trained on `memory` (M, D)."""
    classes = int(max(memory_labels.max(), labels.max())) + 1
    probes = train_probes(memory, F.one_hot(memory_labels, classes).float(), lrs, epochs, batch)
    predicted = probes.scores(queries).argmax(-1)  # (R, Q)
    return dict(zip(lrs, (predicted == labels).float().mean(1).tolist(), strict=True))


def train_probes(features: Tensor, targets: Tensor, lrs: Sequence[float], epochs: int, batch: int) -> Probes:
    """On (rows, D) features and (rows, C) shares of each class.

    SGD with momentum and a cosine to zero; the order of the rows is fixed, so that the result depends on nothing but its
    arguments. The gradient of softmax regression is written out: R probes share each batch.
    """
    mean, deviation = features.float().mean(0), features.float().std(0).clamp_min(1e-6)
    x = torch.cat([(features.float() - mean) / deviation, torch.ones(len(features), 1)], 1)
    rates = torch.tensor(lrs).view(-1, 1, 1)
    weights = torch.zeros(len(lrs), x.shape[1], targets.shape[1])
    velocity = torch.zeros_like(weights)
    batches = -(-len(x) // batch)
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(Key(0), f"linear/{epoch}", len(x)))
        for number, rows in enumerate(order.split(batch)):
            progress = (epoch + number / batches) / epochs
            residual = (x[rows] @ weights).softmax(-1) - targets[rows]  # (R, B, C)
            velocity.mul_(_MOMENTUM).add_(x[rows].T @ residual / len(rows))
            weights -= rates * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress))) * velocity
    return Probes(mean, deviation, weights)
