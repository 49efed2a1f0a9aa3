"""A power law with an offset along a numeric axis, with the uncertainty that the seeds leave.

    y(x) = limit + gain (x / first) ** -exponent

Given the exponent the law is linear, so that it is fitted and profiled over a grid of exponents. Seeds are blocks: what a
seed does to all sizes alike moves the limit, and not the exponent. An interval holds every value whose best law is no worse
than the best of all beyond the F quantile of one constraint; for the limit and a forecast, the degrees of freedom are
Satterthwaite's, of the two mean squares that their variance is made of. tests/report/test_scaling.py simulates how often they
hold the truth.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dinov2lab.report.statistics import Interval

Values = NDArray[np.float64]

EXPONENTS = np.geomspace(0.02, 5.0, 400)  # a smaller one is no law with a limit, a larger one a step
OPEN = Interval(1.001 * float(EXPONENTS[0]), 0.999 * float(EXPONENTS[-1]))  # an interval that reaches out of it is open
LEAST_SIZES, LEAST_SEEDS = 4, 2  # a law has three parameters: three sizes cannot speak against it
AHEAD = 2.0  # times the largest size: no forecast goes further
MISFIT = 0.05  # p of the departure from the law below which it is no law


@dataclass(frozen=True)
class Law:
    first: float  # the smallest size
    limit: float
    gain: float  # of the smallest size, over the limit
    exponent: float
    exponent_interval: Interval  # may end with EXPONENTS: then it is open there
    limit_interval: Interval | None  # none where the exponent is not told from nothing: there may be no limit
    misfit: float  # p of the departure of the means from the law
    ahead: float  # the size that is forecast
    forecast: float
    forecast_interval: Interval
    refusal: str  # why the data do not carry a forecast; nothing where they do

    def at(self, x: ArrayLike) -> Values:
        y: Values = self.limit + self.gain * (np.asarray(x, np.float64) / self.first) ** -self.exponent
        return y


class Spread(NamedTuple):
    """Of a randomised block design: mean squares and their degrees of freedom."""

    residual: float
    residual_df: int
    seeds: float  # expected to be at least the residual one
    seeds_df: int


class _Profile(NamedTuple):
    """The best law for each exponent, and how far from the means it stays, in units of what chance does."""

    exponents: Values  # (C,)
    coefficients: Values  # (C, 2) limit and gain
    inverse: Values  # (C, 2, 2) of the normal equations
    distance: Values  # (C,) chi-square of the residual spread

    @property
    def best(self) -> int:
        return int(np.argmin(self.distance))


def fit(sizes: ArrayLike, table: ArrayLike, alpha: float) -> Law | str:
    """The law of `table` (K sizes, n seeds) at `sizes` (K,), with intervals at 1 - alpha; or why there is none."""
    x, y = np.asarray(sizes, np.float64), np.asarray(table, np.float64)
    if len(np.unique(x)) < LEAST_SIZES:
        return f"a power law with an offset has three parameters: it takes {LEAST_SIZES} sizes to speak against it"
    if y.shape[1] < LEAST_SEEDS:
        return "one seed leaves no spread to judge a law by"
    spread = spread_of(y)
    if not spread.residual > 1e-18 * float(np.abs(y).max()) ** 2:
        return "the seeds agree to the last digit, which leaves no spread to judge a law by"
    profile = _profile(x / x.min(), y, spread, EXPONENTS)
    for _ in range(2):  # closer: of precise data the first grid sees too little
        profile = _profile(x / x.min(), y, spread, _around(profile, float(stats.f.isf(alpha, 1, spread.seeds_df))))
    best, k = profile.best, len(x)
    close = profile.distance - profile.distance[best]
    among = profile.exponents[close <= stats.f.isf(alpha, 1, spread.residual_df)]
    exponents = Interval(float(among[0]), float(among[-1]))
    misfit = float(stats.f.sf(profile.distance[best] / (k - 3), k - 3, spread.residual_df))
    ahead = AHEAD * float(x.max())
    limit, limits = _level(profile, 0.0, spread, y.shape, alpha)
    forecast, forecasts = _level(profile, ahead / float(x.min()), spread, y.shape, alpha)
    bounded = exponents.low > OPEN.low
    seen = float(np.ptp(y.mean(axis=1)))
    return Law(
        first=float(x.min()),
        limit=limit,
        gain=float(profile.coefficients[best, 1]),
        exponent=float(profile.exponents[best]),
        exponent_interval=exponents,
        limit_interval=limits if bounded else None,
        misfit=misfit,
        ahead=ahead,
        forecast=forecast,
        forecast_interval=forecasts,
        refusal=_refusal(misfit, exponents, forecasts, seen),
    )


def _refusal(misfit: float, exponents: Interval, forecast: Interval, seen: float) -> str:
    if misfit < MISFIT:
        return "the means depart from a power law with an offset by more than the seeds do from one another"
    if exponents.low <= OPEN.low and exponents.high >= OPEN.high:
        return "the seeds leave every exponent open"
    if forecast.high - forecast.low > seen:
        return "the interval of a forecast is wider than all that was seen between the sizes"
    return ""


def spread_of(table: Values) -> Spread:
    """Of (K, n) values: what is left when sizes and seeds are taken out, and what lies between the seeds."""
    k, n = table.shape
    rows, columns, mean = table.mean(axis=1, keepdims=True), table.mean(axis=0), table.mean()
    residual = float(((table - rows - columns + mean) ** 2).sum()) / ((k - 1) * (n - 1))
    return Spread(residual, (k - 1) * (n - 1), k * float(((columns - mean) ** 2).sum()) / (n - 1), n - 1)


def _around(profile: _Profile, bound: float) -> Values:
    """As many exponents, between the first ones that are too far from the means on either side of the best."""
    among = np.flatnonzero(profile.distance - profile.distance[profile.best] <= bound)
    first, last = max(among[0] - 1, 0), min(among[-1] + 1, len(profile.exponents) - 1)
    closer: Values = np.geomspace(profile.exponents[first], profile.exponents[last], len(profile.exponents))
    return closer


def _profile(x: Values, table: Values, spread: Spread, exponents: Values) -> _Profile:
    """By least squares on the means: what the seeds share is taken up by the limit."""
    means = table.mean(axis=1)
    powers = x[None, :] ** -exponents[:, None]  # (C, K)
    design = np.stack([np.ones_like(powers), powers], axis=2)  # (C, K, 2)
    inverse = np.linalg.inv(np.einsum("cki,ckj->cij", design, design))
    coefficients = np.einsum("cij,ckj,k->ci", inverse, design, means)
    left = means - np.einsum("cki,ci->ck", design, coefficients)
    distance = table.shape[1] * (left**2).sum(axis=1) / spread.residual
    return _Profile(exponents, coefficients, inverse, distance)


def _level(profile: _Profile, x: float, spread: Spread, shape: tuple[int, ...], alpha: float) -> tuple[float, Interval]:
    """The law at x, in units of the first size (0 stands for its limit), and the interval."""
    k, n = shape
    powers = np.zeros_like(profile.exponents) if x == 0 else x**-profile.exponents
    weights = np.stack([np.ones_like(powers), powers], axis=1)  # (C, 2)
    value = (weights * profile.coefficients).sum(axis=1)
    leverage = np.einsum("ci,cij,cj->c", weights, profile.inverse, weights)  # (C,) at least 1 / K
    own, shared = spread.residual * (leverage - 1 / k) / n, max(spread.seeds, spread.residual) / (k * n)
    variance, best = own + shared, profile.best
    df = variance[best] ** 2 / (own[best] ** 2 / spread.residual_df + shared**2 / spread.seeds_df)
    room = float(stats.f.isf(alpha, 1, df)) - (profile.distance - profile.distance[best])
    kept = room >= 0
    reach = np.sqrt(room[kept] * variance[kept])
    ends = Interval(float((value[kept] - reach).min()), float((value[kept] + reach).max()))
    return float(value[best]), ends
