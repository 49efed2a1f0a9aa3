"""Rules that rank, flip or draw again what seeds gave instead of assuming that it is normal; together by Bonferroni.

sign_flip  of the mean; exact whatever the differences' distribution, if it is symmetric
median     of the median; exact whatever their distribution: order statistics, as the sign test has them
iqm        of the interquartile mean, by the bootstrap (Agarwal et al. 2021), which is not exact. Their percentile intervals
           are far too tight for so few seeds; the bootstrap's standard error holds its level where it is widened by
           sqrt(n / (n - 1)) and reaches as far as Student's t says (Hesterberg 2015): benchmarks/rules.py counts it
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dinov2lab.report.statistics import ROUNDING, Difference, Interval, paired_scale, size_of, unjudged
from dinov2lab.spec.study import LEAST_IQM

DRAWN = 10_000  # times that seeds are drawn again, always the same ones
WHOLE = 16  # seeds of which every subset is taken; of more, as many subsets are drawn, always the same ones


def sign_flip_difference(arm: Sequence[float], baseline: Sequence[float], alpha: float, comparisons: int) -> Difference:
    """By the rule sign_flip: of the means of subsets of the differences, those between the k-th from either end.

    Subset means are typical values of a symmetric distribution's middle, all of them or a random choice (Hartigan 1969):
    the truth is as likely to lie between any two that are neighbours in order. Values of the same seeds in the same order.
    """
    differences = in_order(arm, baseline)
    if not len(differences) or not np.isfinite(differences).all():
        return unjudged(differences)
    members = subsets(len(differences))
    tail = int(alpha / comparisons * (len(members) + 1) / 2)
    if not tail or alike(differences, arm, baseline):
        return unjudged(differences, exact=bool(tail))
    means = np.sort(members @ differences / members.sum(axis=1))
    interval = Interval(float(means[tail - 1]), float(means[-tail]))
    return Difference(len(differences), float(differences.mean()), interval, None, None)


def median_difference(arm: Sequence[float], baseline: Sequence[float], alpha: float, comparisons: int) -> Difference:
    """By the rule median: between the k-th differences from either end, below and above which the median is seldom enough."""
    differences = in_order(arm, baseline)
    n, middle = len(differences), float(np.median(differences)) if len(differences) else None
    if not n or not np.isfinite(differences).all():
        return unjudged(differences)
    below = stats.binom.cdf(np.arange(n), n, 0.5)  # chance that at most so many of n lie below the median
    tail = int(np.searchsorted(below, alpha / comparisons / 2, side="right"))
    if not tail or alike(differences, arm, baseline):
        return Difference(n, middle, None, None, None, exact=bool(tail))
    return Difference(n, middle, Interval(float(differences[tail - 1]), float(differences[-tail])), None, None)


def iqm_difference(arm: Sequence[float], baseline: Sequence[float], alpha: float, comparisons: int) -> Difference:
    """By the rule iqm: the mean without a quarter at either end, and how far it moves when seeds are drawn again."""
    differences = in_order(arm, baseline)
    n = len(differences)
    if not n or not np.isfinite(differences).all():
        return unjudged(differences)
    middle, cut = float(stats.trim_mean(differences, 0.25)), n // 4
    if n < LEAST_IQM or alike(differences, arm, baseline):
        return Difference(n, middle, None, None, None, exact=n >= LEAST_IQM)
    deviation = float((shares(n, cut) @ differences).std()) * float(np.sqrt(n / (n - 1)))
    reach = paired_scale(n, alpha, comparisons).critical * deviation
    return Difference(n, middle, Interval(middle - reach, middle + reach), None, None)


def in_order(arm: Sequence[float], baseline: Sequence[float]) -> NDArray[np.float64]:
    """(n,) differences, from the smallest on."""
    return np.sort(np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64))


def alike(differences: NDArray[np.float64], *values: Sequence[float]) -> bool:
    """Whether the differences of these values are one and the same."""
    return float(np.ptp(differences)) <= ROUNDING * size_of(*values)


@lru_cache(maxsize=2)
def shares(n: int, cut: int) -> NDArray[np.float64]:
    """(DRAWN, n): for each draw of n seeds with replacement, what each of n ordered values counts in its trimmed mean."""
    kept = np.sort(np.random.default_rng(n).integers(0, n, (DRAWN, n)), axis=1)[:, cut : n - cut]
    places = (np.arange(DRAWN)[:, None] * n + kept).ravel()
    return np.bincount(places, minlength=DRAWN * n).reshape(DRAWN, n) / (n - 2 * cut)


@lru_cache(maxsize=4)
def subsets(n: int) -> NDArray[np.int64]:
    """(subsets, n) of ones and zeros: those of n seeds that are not empty, or distinct ones that were drawn."""
    if n <= WHOLE:
        return (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    drawn = np.unique(np.random.default_rng(n).integers(0, 2, size=(2**WHOLE - 1, n)), axis=0)
    return drawn[drawn.any(axis=1)]
