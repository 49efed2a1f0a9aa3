"""Are the features alive? Label-free measures that name a collapse."""

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
