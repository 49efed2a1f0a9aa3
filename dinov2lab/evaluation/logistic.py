"""Logistic regression on frozen features, to its optimum (DINOv2, eval/log_regression.py): what no learning rate decides.

D feature width   C classes
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1000  # of L-BFGS, at most; what is separable and hardly penalised asks for many
_TOLERANCE = 1e-7  # of the mean loss's gradient


def logistic_accuracies(
    memory: Tensor, memory_labels: Tensor, queries: Tensor, labels: Tensor, cs: Sequence[float]
) -> dict[float, float]:
    """Accuracy on `queries` (Q, D), for each inverse penalty c, of the regression on `memory` (M, D), both standardised."""
    mean, deviation = memory.double().mean(0), memory.double().std(0).clamp_min(1e-6)
    x, asked = ((rows.double() - mean) / deviation for rows in (memory, queries))
    weights, found = None, {}
    for c in sorted(cs):  # from the most penalised on, each begins where the one before it ended
        weights = fit(x, memory_labels, c, weights)
        found[c] = float((scores(weights, asked).argmax(1) == labels).double().mean())
    return {c: found[c] for c in cs}


def fit(x: Tensor, labels: Tensor, c: float, start: Tensor | None = None) -> Tensor:
    """(D + 1, C) weights, the bias last: the least of |weights without bias|^2 / 2 + c * sum of cross-entropies.

    `x`: (rows, D) float64. A convex problem: where it starts decides nothing but the time.
    """
    classes = int(labels.max()) + 1
    weights = torch.zeros(x.shape[1] + 1, classes, dtype=x.dtype) if start is None else start.clone()
    weights.requires_grad_()
    solver = torch.optim.LBFGS(
        [weights],
        max_iter=STEPS,
        max_eval=2 * STEPS,
        history_size=20,
        tolerance_grad=_TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(scores(weights, x), labels) + weights[:-1].square().sum() / (2 * c * len(x))
        loss.backward()
        return loss

    solver.step(closure)
    return weights.detach()


def scores(weights: Tensor, x: Tensor) -> Tensor:
    """(rows, C) of (rows, D)."""
    return x @ weights[:-1] + weights[-1]
