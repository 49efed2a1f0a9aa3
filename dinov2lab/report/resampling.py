"""Rules that flip or redraw what seeds gave instead of assuming that it is normal."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dinov2lab.report.statistics import ROUNDING, Difference, Interval, size_of, unjudged

WHOLE = 16  # seeds of which every subset is taken; of more, as many subsets are drawn, always the same ones


def sign_flip_difference(arm: Sequence[float], baseline: Sequence[float], alpha: float, comparisons: int) -> Difference:
    """By the rule sign_flip: of the means of subsets of the differences, those between the k-th from either end.

    Subset means are typical values of a symmetric distribution's middle, all of them or a random choice (Hartigan 1969):
    the truth is as likely to lie between any two that are neighbours in order. Values of the same seeds in the same order.
    """
    differences = np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)  # (n,)
    n = len(differences)
    if not n or not np.isfinite(differences).all():
        return unjudged(differences)
    members = subsets(n)
    tail = int(alpha / comparisons * (len(members) + 1) / 2)
    if not tail:
        return unjudged(differences)
    if float(np.ptp(differences)) <= ROUNDING * size_of(arm, baseline):
        return Difference(n, float(differences.mean()), None, None, None, exact=n > 1)
    means = np.sort(members @ differences / members.sum(axis=1))
    return Difference(n, float(differences.mean()), Interval(float(means[tail - 1]), float(means[-tail])), None, None)


@lru_cache(maxsize=4)
def subsets(n: int) -> NDArray[np.int64]:
    """(subsets, n) of ones and zeros: those of n seeds that are not empty, or distinct ones that were drawn."""
    if n <= WHOLE:
        return (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    drawn = np.unique(np.random.default_rng(n).integers(0, 2, size=(2**WHOLE - 1, n)), axis=0)
    return drawn[drawn.any(axis=1)]
