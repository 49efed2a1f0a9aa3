"""Rules that rank, flip or draw again what seeds gave instead of assuming that it is normal; together by Bonferroni.

sign_flip  of the mean; exact whatever the differences' distribution, if it is symmetric
median     of the median; exact whatever their distribution: order statistics, as the sign test has them
iqm        of the interquartile mean, by the bootstrap (Agarwal et al. 2021), which is not exact. Their percentile intervals
           are far too tight for so few seeds; the bootstrap's standard error holds its level where it is widened by
           sqrt(n / (n - 1)) and reaches as far as Student's t says (Hesterberg 2015): benchmarks/rules.py counts it
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dinov2lab.report.statistics import (
    POWER,
    ROUNDING,
    Difference,
    Interval,
    paired_scale,
    sd_interval,
    size_of,
    unjudged,
)
from dinov2lab.spec.study import LEAST_IQM

DRAWN = 10_000  # times that seeds are drawn again, always the same ones
SIMULATED = 500  # studies without a difference, from which it is told what a rule can find
WHOLE = 16  # seeds of which every subset is taken; of more, as many subsets are drawn, always the same ones


class Estimator(NamedTuple):
    middle: Callable[[NDArray[np.float64]], float]  # of (n,) differences in order
    interval: Callable[[NDArray[np.float64], float], Interval | None]  # of them, at an alpha; none of too few


def judged_by(
    estimator: Estimator, arm: Sequence[float], baseline: Sequence[float], alpha: float, comparisons: int
) -> Difference:
    """Values of the same seeds in the same order; one that is no number leaves no difference at all."""
    differences = np.sort(np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64))
    n = len(differences)
    if not n or not np.isfinite(differences).all():
        return unjudged(differences)
    middle, interval = estimator.middle(differences), estimator.interval(differences, alpha / comparisons)
    if interval is None or float(np.ptp(differences)) <= ROUNDING * size_of(arm, baseline):
        return Difference(n, middle, None, None, None, exact=interval is not None)
    effect, sd = least_found(estimator, n, alpha / comparisons), float(differences.std(ddof=1))
    low, high = sd_interval(sd, n - 1, alpha)
    return Difference(n, middle, interval, effect * sd, Interval(effect * low, effect * high))


@lru_cache
def least_found(estimator: Estimator, n: int, alpha: float) -> float:
    """The difference, in standard deviations of differences that are normal, that `n` seeds find with POWER; by simulation.

    A shift of all differences shifts their interval: one is found once it is larger than the end that lies opposite.
    """
    drawn = np.sort(np.random.default_rng(n).standard_normal((SIMULATED, n)))
    ends = [end for each in drawn if (found := estimator.interval(each, alpha)) for end in (-found.low, found.high)]
    return float(np.quantile(ends, POWER))


def sign_flip_interval(differences: NDArray[np.float64], alpha: float) -> Interval | None:
    """Of the means of subsets of the differences, those between the k-th from either end.

    Subset means are typical values of a symmetric distribution's middle, all of them or a random choice (Hartigan 1969):
    the truth is as likely to lie between any two that are neighbours in order.
    """
    members = subsets(len(differences))
    tail = int(alpha * (len(members) + 1) / 2)
    if not tail:
        return None
    means = np.partition(members @ differences / members.sum(axis=1), (tail - 1, -tail))
    return Interval(float(means[tail - 1]), float(means[-tail]))


def median_interval(differences: NDArray[np.float64], alpha: float) -> Interval | None:
    """Between the k-th differences from either end, below and above which the median is seldom enough."""
    n = len(differences)
    below = stats.binom.cdf(np.arange(n), n, 0.5)  # chance that at most so many of n lie below the median
    tail = int(np.searchsorted(below, alpha / 2, side="right"))
    return Interval(float(differences[tail - 1]), float(differences[-tail])) if tail else None


def interquartile_mean(differences: NDArray[np.float64]) -> float:
    return float(stats.trim_mean(differences, 0.25))


def iqm_interval(differences: NDArray[np.float64], alpha: float) -> Interval | None:
    """About the mean without a quarter at either end: how far it moves when seeds are drawn again."""
    n = len(differences)
    if n < LEAST_IQM:
        return None
    deviation = float((shares(n, n // 4) @ differences).std()) * float(np.sqrt(n / (n - 1)))
    middle, reach = interquartile_mean(differences), paired_scale(n, alpha).critical * deviation
    return Interval(middle - reach, middle + reach)


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


SIGN_FLIP = Estimator(lambda differences: float(differences.mean()), sign_flip_interval)
MEDIAN = Estimator(lambda differences: float(np.median(differences)), median_interval)
IQM = Estimator(interquartile_mean, iqm_interval)
sign_flip_difference = partial(judged_by, SIGN_FLIP)
median_difference = partial(judged_by, MEDIAN)
iqm_difference = partial(judged_by, IQM)
