"""Paired t statistics over seeds. The unit is the run, never the image; arms share seeds, so differences are paired.

With the few seeds that training allows, a bootstrap is falsely tight and no permutation test can reach 0.05; a t
interval on the paired differences holds its level. Intervals of several comparisons to one baseline hold together by
Bonferroni: each t quantile is taken at alpha / comparisons. What is shown is what decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Claim = Literal["better", "worse", "not separable", "none"]
POWER = 0.8  # at which the smallest resolvable difference is stated
ROUNDING = 1e-9  # relative spread below which differences count as equal in every seed


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Mean:
    """An arm's mean over its seeds, with the plain t interval of that one mean: it describes, and decides nothing."""

    n: int
    mean: float | None
    interval: Interval | None  # none with fewer than two seeds, or no spread at all


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline over their common seeds, in the metric's own unit."""

    n: int
    mean: float | None
    interval: Interval | None  # simultaneous over the comparisons; none with fewer than two seeds, or no spread at all
    resolvable: float | None  # smallest true difference that is found with a probability of POWER
    resolvable_interval: Interval | None  # of `resolvable`, since the spread it rests on is itself an estimate

    @property
    def exact(self) -> bool:
        """Two seeds or more, and the same difference in each: there is no spread to make an interval from."""
        return self.n > 1 and self.mean is not None and self.interval is None


def critical(n: int, alpha: float, comparisons: int = 1) -> float:
    """The two-sided t quantile for `n` differences, at alpha / comparisons."""
    return float(stats.t.isf(alpha / (2 * comparisons), n - 1))


def t_interval(
    samples: ArrayLike, alpha: float, comparisons: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high ends, (...), of t intervals for the means of samples (..., n), n of at least 2."""
    values = np.asarray(samples, dtype=np.float64)  # (..., n)
    n = values.shape[-1]
    mean = values.mean(axis=-1)
    reach = critical(n, alpha, comparisons) * values.std(axis=-1, ddof=1) / np.sqrt(n)
    return mean - reach, mean + reach


def power(effect: float, n: int, alpha: float, comparisons: int = 1) -> float:
    """Chance that the paired t test finds a true difference of `effect` standard deviations of the differences.

    The tail of the non-central t distribution, as an integral over the estimated deviation (scipy's own tail is NaN for
    the large quantiles that two or three seeds need).
    """
    quantiles = (np.arange(4000) + 0.5) / 4000
    spread = np.sqrt(2 * special.gammaincinv((n - 1) / 2, quantiles) / (n - 1))  # estimated sd over true sd
    bound, shift = critical(n, alpha, comparisons) * spread, effect * np.sqrt(n)
    return float(np.mean(special.ndtr(shift - bound) + special.ndtr(-shift - bound)))


@lru_cache
def resolvable_effect(n: int, alpha: float, comparisons: int = 1) -> float:
    """The difference, in standard deviations of the paired differences, that `n` seeds find with POWER."""
    far = 2 * critical(n, alpha, comparisons) + 10
    return float(optimize.brentq(lambda effect: power(effect, n, alpha, comparisons) - POWER, 0, far))


def mean_of(values: Sequence[float], alpha: float) -> Mean:
    if not values or not np.isfinite(values).all():
        return Mean(len(values), None, None)
    spread = float(np.ptp(values))
    interval = _interval(values, alpha, 1) if spread > ROUNDING * float(np.abs(values).max()) else None
    return Mean(len(values), float(np.mean(values)), interval)


def paired_difference(arm: Sequence[float], baseline: Sequence[float], alpha: float, comparisons: int) -> Difference:
    """Values of the same seeds in the same order. A value that is no number leaves no difference at all."""
    differences = np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)  # (n,)
    n = len(differences)
    if not n or not np.isfinite(differences).all():
        return Difference(n, None, None, None, None)
    mean = float(differences.mean())
    if n == 1:
        return Difference(n, mean, None, None, None)
    sd = float(differences.std(ddof=1))
    if sd <= ROUNDING * max(float(np.abs(arm).max()), float(np.abs(baseline).max())):
        return Difference(n, mean, None, None, None)
    effect, deviations = resolvable_effect(n, alpha, comparisons), _sd_interval(sd, n, alpha)
    interval = _interval(differences.tolist(), alpha, comparisons)
    resolvable = Interval(effect * deviations.low, effect * deviations.high)
    return Difference(n, mean, interval, effect * sd, resolvable)


def separates(difference: Difference, *, higher_is_better: bool) -> Claim:
    """What the interval alone says; whether the study may claim it is for verdict.py."""
    if difference.exact and difference.mean is not None and abs(difference.mean) <= ROUNDING:
        return "not separable"
    if difference.interval is None:
        return "none"
    if difference.interval.low <= 0 <= difference.interval.high:
        return "not separable"
    return "better" if (difference.interval.low > 0) == higher_is_better else "worse"


def _interval(values: Sequence[float], alpha: float, comparisons: int) -> Interval | None:
    if len(values) < 2:
        return None
    low, high = t_interval(values, alpha, comparisons)
    return Interval(float(low), float(high))


def _sd_interval(sd: float, n: int, alpha: float) -> Interval:
    """Chi-square interval of a normal standard deviation at 1 - alpha."""
    low, high = (float(stats.chi2.isf(tail, n - 1)) for tail in (alpha / 2, 1 - alpha / 2))
    return Interval(sd * float(np.sqrt((n - 1) / low)), sd * float(np.sqrt((n - 1) / high)))
