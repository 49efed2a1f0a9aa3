"""Paired statistics over seeds. The unit is the run, never the image; arms share seeds, so differences are paired.

With the few seeds that training allows, a bootstrap is falsely tight and no permutation test can reach 0.05; a t
interval on the paired differences holds its level. Intervals of several comparisons to one baseline hold together at
alpha, and what is shown is what decides. A study chooses one of the rules before it runs (rules.py); two of them are here:

    paired_t   each comparison by its own spread; together by Bonferroni: each t quantile is taken at alpha / comparisons
    blocked    all arms share one estimate of the spread, that of a randomised block design whose blocks are the seeds;
               together by Dunnett's quantile (Dunnett 1955). Many more degrees of freedom, for one more assumption: that
               seeds scatter alike in all arms

Those that assume no normal distribution are in resampling.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Claim = Literal["better", "worse", "no worse", "not separable", "none"]
POWER = 0.8  # at which the smallest resolvable difference is stated
ROUNDING = 1e-9  # relative spread below which differences count as equal in every seed
MOST_SEEDS = 1000  # that a study is told it would need


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
    estimate: float | None  # the mean, unless the rule is about another middle
    interval: Interval | None  # simultaneous over the comparisons; none with too few seeds for the rule, or no spread
    resolvable: float | None  # smallest true difference that is found with a probability of POWER, were they normal
    resolvable_interval: Interval | None  # of `resolvable`, since the spread it rests on is itself an estimate
    sd: float | None = None  # estimated, of the differences, where t intervals rest on it
    effect_interval: Interval | None = (
        None  # of `effect`, at the quantile that decides: zero is in both intervals or in none
    )
    exact: bool = False  # two seeds or more, and the same difference in each: no spread to make an interval from

    @property
    def effect(self) -> float | None:
        """In standard deviations of the differences, as the rule estimates them (Cohen's d for pairs)."""
        return self.estimate / self.sd if self.sd and self.estimate is not None else None


class Scale(NamedTuple):
    """What an estimated spread is worth: how far an interval reaches, in standard errors."""

    df: int  # degrees of freedom of the spread
    critical: float  # quantile of the largest |t| of the comparisons


def paired_scale(n: int, alpha: float, comparisons: int = 1) -> Scale:
    """Of the spread of `n` differences by itself: the two-sided t quantile at alpha / comparisons."""
    return Scale(n - 1, float(stats.t.isf(alpha / (2 * comparisons), n - 1)))


def blocked_scale(arms: int, n: int, alpha: float, comparisons: int) -> Scale:
    """Of the spread that `arms`, the baseline among them, share over `n` seeds."""
    df = (arms - 1) * (n - 1)
    return Scale(df, dunnett_quantile(comparisons, df, alpha))


@lru_cache
def dunnett_quantile(comparisons: int, df: int, alpha: float) -> float:
    """c with P(max |t_i| > c) = alpha for equal arms, t_i the differences to one baseline over their common spread.

    Given the baseline's normal deviate and the estimated spread the comparisons are independent: a double integral.
    """
    if comparisons == 1:
        return float(stats.t.isf(alpha / 2, df))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    deviates, weights = nodes[:, None], weights / weights.sum()
    spread = _estimated_spread(df, 1000)

    def kept(bound: float) -> float:
        reach = np.sqrt(2) * bound * spread
        inside = special.ndtr(deviates + reach) - special.ndtr(deviates - reach)  # (deviates, spreads)
        return float(weights @ (inside**comparisons).mean(axis=1))

    far = float(stats.t.isf(alpha / (2 * comparisons), df)) + 1  # Bonferroni's bound lies beyond
    return float(optimize.brentq(lambda bound: kept(bound) - (1 - alpha), 0, far))


@lru_cache(maxsize=64)
def _estimated_spread(df: int, count: int) -> NDArray[np.float64]:
    """(count,) equally likely values of an estimated standard deviation over the true one; kept, as they are dear."""
    quantiles = (np.arange(count) + 0.5) / count
    spread: NDArray[np.float64] = np.sqrt(2 * special.gammaincinv(df / 2, quantiles) / df)
    spread.flags.writeable = False
    return spread


def t_interval(
    samples: ArrayLike, alpha: float, comparisons: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high ends, (...), of t intervals for the means of samples (..., n), n of at least 2."""
    values = np.asarray(samples, dtype=np.float64)  # (..., n)
    n = values.shape[-1]
    mean = values.mean(axis=-1)
    reach = paired_scale(n, alpha, comparisons).critical * values.std(axis=-1, ddof=1) / np.sqrt(n)
    return mean - reach, mean + reach


def power(effect: float, n: int, scale: Scale) -> float:
    """Chance that `n` seeds find a true difference of `effect` standard deviations of the differences.

    The tail of the non-central t distribution, as an integral over the estimated deviation (scipy's own tail is NaN for
    the large quantiles that two or three seeds need).
    """
    spread = _estimated_spread(scale.df, 4000)
    bound, shift = scale.critical * spread, effect * np.sqrt(n)
    return float(np.mean(special.ndtr(shift - bound) + special.ndtr(-shift - bound)))


@lru_cache
def resolvable_effect(n: int, scale: Scale) -> float:
    """The difference, in standard deviations of the paired differences, that `n` seeds find with POWER."""
    return float(optimize.brentq(lambda effect: power(effect, n, scale) - POWER, 0, 2 * scale.critical + 10))


def effect_interval(effect: float, n: int, scale: Scale) -> Interval:
    """Of a true effect in standard deviations: those of which `effect` would be in neither tail (Steiger and Fouladi 1997).

    The tails are those beyond the quantile that decides, under the non-central t distribution that `effect` has.
    """
    tail = float(stats.t.sf(scale.critical, scale.df))
    spread, root = _estimated_spread(scale.df, 4000), float(np.sqrt(n))

    def end(share: float) -> float:
        def below(true: float) -> float:
            return float(np.mean(special.ndtr(root * (effect * spread - true)))) - share

        reach = (abs(effect) * float(spread[-1]) * root + 10) / root
        return float(optimize.brentq(below, -reach, reach))

    return Interval(end(1 - tail), end(tail))


def seeds_needed(effect: float, more_than: int, scale: Callable[[int], Scale]) -> int | None:
    """The fewest seeds, more than some, that find `effect` standard deviations of the differences with POWER.

    None where MOST_SEEDS are too few. `scale`: that of so many seeds.
    """
    enough, few = MOST_SEEDS, more_than
    if effect < resolvable_effect(enough, scale(enough)):
        return None
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if effect >= resolvable_effect(middle, scale(middle)) else (middle, enough)
    return enough


def mean_of(values: Sequence[float], alpha: float) -> Mean:
    if not values or not np.isfinite(values).all():
        return Mean(len(values), None, None)
    spread = float(np.ptp(values))
    interval = _interval(values, alpha, 1) if spread > ROUNDING * float(np.abs(values).max()) else None
    return Mean(len(values), float(np.mean(values)), interval)


def paired_difference(arm: Sequence[float], baseline: Sequence[float], alpha: float, comparisons: int) -> Difference:
    """By the rule paired_t. Values of the same seeds in the same order; one that is no number leaves no difference at all."""
    differences = np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)  # (n,)
    n = len(differences)
    if n < 2 or not np.isfinite(differences).all():
        return unjudged(differences)
    scale = paired_scale(n, alpha, comparisons)
    return _judged(float(differences.mean()), float(differences.std(ddof=1)), n, scale, alpha, size_of(arm, baseline))


def blocked_differences(
    arms: Sequence[Sequence[float]], baseline: Sequence[float], alpha: float, comparisons: int
) -> tuple[Difference, ...]:
    """By the rule blocked: of each of `arms`, all over the same seeds in the same order; `comparisons` are those planned.

    With a single arm it is the paired t interval. A value that is no number leaves its arm out of the common spread.
    """
    table = np.asarray([baseline, *arms], dtype=np.float64)  # (A, n)
    whole = np.array([bool(np.isfinite(row).all()) for row in table])
    n = table.shape[1]
    if n < 2 or not whole[0] or whole.sum() < 2:
        return tuple(unjudged(row - table[0]) for row in table[1:])
    used = table[whole]
    residuals = used - used.mean(axis=1, keepdims=True) - used.mean(axis=0) + used.mean()
    scale = blocked_scale(len(used), n, alpha, comparisons)
    sd = float(np.sqrt(2 * (residuals**2).sum() / scale.df))  # of a difference between two arms
    size = float(np.abs(used).max())
    return tuple(
        _judged(float((row - table[0]).mean()), sd, n, scale, alpha, size) if good else unjudged(row - table[0])
        for row, good in zip(table[1:], whole[1:], strict=True)
    )


def unjudged(differences: NDArray[np.float64]) -> Difference:
    """Without an interval: fewer seeds than one needs, or a value that is no number."""
    n = len(differences)
    mean = float(differences.mean()) if n and np.isfinite(differences).all() else None
    return Difference(n, mean, None, None, None)


def _judged(mean: float, sd: float, n: int, scale: Scale, alpha: float, size: float) -> Difference:
    """`sd`: estimated, of the differences; `size`: of the values that they are taken of, against which none is no spread."""
    if sd <= ROUNDING * size:
        return Difference(n, mean, None, None, None, exact=True)
    reach = scale.critical * sd / float(np.sqrt(n))
    effect, deviations = resolvable_effect(n, scale), sd_interval(sd, scale.df, alpha)
    resolvable = Interval(effect * deviations.low, effect * deviations.high)
    interval, standardized = Interval(mean - reach, mean + reach), effect_interval(mean / sd, n, scale)
    return Difference(n, mean, interval, effect * sd, resolvable, sd, standardized)


def size_of(*values: Sequence[float]) -> float:
    """The largest magnitude: what a spread is compared with before it counts as one."""
    return max(float(np.abs(each).max()) for each in values)


def separates(difference: Difference, *, higher_is_better: bool, margin: float | None = None) -> Claim:
    """What the interval alone says; whether the study may claim it is for verdict.py.

    With a `margin`, in the metric's own unit, an interval that holds zero but no loss of so much says `no worse`.
    """
    if difference.exact and difference.estimate is not None and abs(difference.estimate) <= ROUNDING:
        return "not separable"
    if difference.interval is None:
        return "none"
    low, high = difference.interval if higher_is_better else (-difference.interval.high, -difference.interval.low)
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    return "no worse" if margin is not None and low > -margin else "not separable"


def _interval(values: Sequence[float], alpha: float, comparisons: int) -> Interval | None:
    if len(values) < 2:
        return None
    low, high = t_interval(values, alpha, comparisons)
    return Interval(float(low), float(high))


def sd_interval(sd: float, df: int, alpha: float) -> Interval:
    """Chi-square interval of a normal standard deviation at 1 - alpha."""
    low, high = (float(stats.chi2.isf(tail, df)) for tail in (alpha / 2, 1 - alpha / 2))
    return Interval(sd * float(np.sqrt(df / low)), sd * float(np.sqrt(df / high)))
