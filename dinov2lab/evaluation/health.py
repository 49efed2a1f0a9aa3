"""Are the features alive? Measures that name a collapse; all but alignment without labels."""

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(features: Tensor) -> float:
    """Mean deviation of the L2-normalised features (rows, D), times sqrt(D): about 1 when spread out, 0 when collapsed."""
    unit = F.normalize(features.float(), dim=-1)
    return float(unit.std(0).mean() * features.shape[1] ** 0.5)


def rankme(features: Tensor) -> float:
    """Effective rank: exp of the entropy of the singular values (Garrido et al. 2023, arXiv 2210.02885)."""
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def uniformity(features: Tensor) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs of L2-normalised features (Wang & Isola 2020, arXiv 2005.10242).

    0 where all are one, about -4 where they fill a sphere of many dimensions: lower is more uniform.
    """
    if len(features) < 2:
        return 0.0
    unit = F.normalize(features.double(), dim=-1)
    return float(torch.pdist(unit).square().mul(-2).exp().mean().log())


def alignment(features: Tensor, labels: Tensor) -> float | None:
    """Mean squared distance of L2-normalised features of one class, over all pairs (Wang & Isola 2020); lower is closer.

    Images of one class are the positive pairs; None where no class has two.
    """
    unit, total, pairs = F.normalize(features.double(), dim=-1), 0.0, 0
    for label in labels.unique():
        rows = unit[labels == label]
        total += float(torch.pdist(rows).square().sum())
        pairs += len(rows) * (len(rows) - 1) // 2
    return total / pairs if pairs else None
