"""Linear probes on frozen features: one for each learning rate, trained at once (dinov2, eval/linear.py).

R learning rates   D feature width   C classes   B rows of a batch
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dinov2lab.draws import Key, permutation

_MOMENTUM = 0.9


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
    """Accuracy on `queries` (Q, D) of the probe of each learning rate, trained on `memory` (M, D).

    Features are standardised by the memory's mean and deviation, so that one grid serves features of any scale. SGD with
    momentum and a cosine to zero; the order of the rows is fixed, so that the result depends on nothing but its arguments.
    """
    classes = int(max(memory_labels.max(), labels.max())) + 1
    mean, deviation = memory.float().mean(0), memory.float().std(0).clamp_min(1e-6)
    memory, queries = (memory.float() - mean) / deviation, (queries.float() - mean) / deviation
    weights = _train(memory, memory_labels, classes, torch.tensor(lrs).view(-1, 1, 1), epochs, batch)
    predicted = (queries @ weights[:, :-1] + weights[:, -1:]).argmax(-1)  # (R, Q)
    return dict(zip(lrs, (predicted == labels).float().mean(1).tolist(), strict=True))


def _train(x: Tensor, y: Tensor, classes: int, lrs: Tensor, epochs: int, batch: int) -> Tensor:
    """(R, D + 1, C) weights, the bias last. The gradient of softmax regression is written out: R probes share each batch."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    weights = torch.zeros(len(lrs), x.shape[1], classes)
    velocity = torch.zeros_like(weights)
    batches = -(-len(x) // batch)
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(Key(0), f"linear/{epoch}", len(x)))
        for number, rows in enumerate(order.split(batch)):
            progress = (epoch + number / batches) / epochs
            residual = (x[rows] @ weights).softmax(-1)  # (R, B, C)
            residual[:, torch.arange(len(rows)), y[rows]] -= 1
            velocity.mul_(_MOMENTUM).add_(x[rows].T @ residual / len(rows))
            weights -= lrs * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress))) * velocity
    return weights
