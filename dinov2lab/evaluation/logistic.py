"""Logistic regression on frozen features, to its optimum (DINOv2, eval/log_regression.py): what no learning rate decides.

D feature width   C classes
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

STEPS = 1000  # of L-BFGS, at most; what is separable and hardly penalised asks for many
_TOLERANCE = 1e-8  # of the mean loss's gradient


def logistic_accuracies(
    memory: Tensor, memory_labels: Tensor, queries: Tensor, labels: Tensor, cs: Sequence[float]
) -> dict[float, float]:
    """Accuracy on `queries` (Q, D), for each inverse penalty c, of the regression on `memory` (M, D), both standardised."""
    mean, deviation = memory.double().mean(0), memory.double().std(0).clamp_min(1e-6)
    x, asked = ((rows.double() - mean) / deviation for rows in (memory, queries))
    if x.shape[1] > len(x):  # the optimum lies in what the rows span: the same problem in as many dimensions
        span = torch.linalg.svd(x, full_matrices=False).Vh.T
        x, asked = x @ span, asked @ span
    weights, found = None, {}
    for c in sorted(cs):  # from the most penalised on, each begins where the one before it ended
        weights = fit(x, memory_labels, c, weights)
        found[c] = float((scores(weights, asked).argmax(1) == labels).double().mean())
    return {c: found[c] for c in cs}


def fit(x: Tensor, labels: Tensor, c: float, start: Tensor | None = None) -> Tensor:
    """(D + 1, C) weights, the bias last: the least of |weights without bias|^2 / 2 + c * sum of cross-entropies.

    `x`: (rows, D) float64. A convex problem: where it starts decides nothing but the time.
    """
    shape = (x.shape[1] + 1, int(labels.max()) + 1)
    truth = F.one_hot(labels, shape[1]).double()
    share = 1 / (c * len(x))  # of the penalty, in a mean over rows

    def loss(flat: Any) -> Any:
        """The mean loss and its gradient, which is written out."""
        weights = torch.from_numpy(flat).view(shape)
        log = scores(weights, x).log_softmax(1)
        residual = (log.exp() - truth) / len(x)
        gradient = torch.cat([x.T @ residual + share * weights[:-1], residual.sum(0, keepdim=True)])
        value = share / 2 * weights[:-1].square().sum() - (log * truth).sum() / len(x)
        return float(value), gradient.flatten().numpy()

    begin = torch.zeros(shape, dtype=torch.float64) if start is None else start
    options: Any = {"maxiter": STEPS, "maxfun": 2 * STEPS, "maxcor": 20, "gtol": _TOLERANCE, "ftol": 0.0}
    found = minimize(loss, begin.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).view(shape)


def scores(weights: Tensor, x: Tensor) -> Tensor:
    """(rows, C) of (rows, D)."""
    return x @ weights[:-1] + weights[-1]
