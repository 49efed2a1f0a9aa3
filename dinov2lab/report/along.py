"""A study along a numeric axis: curves with intervals, and a law where one fits; and the best that is had for so much."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dinov2lab.report import scaling, words
from dinov2lab.report.confounds import UNLIKE, facts_of
from dinov2lab.report.scaling import Law
from dinov2lab.report.statistics import Interval, Mean, mean_of
from dinov2lab.report.tables import Cost, Run, finals
from dinov2lab.spec.study import Study

AXES = {
    "training_images": "training images",
    "parameters": "backbone parameters",
    "images_seen": "images seen",
    "flops": "FLOPs",
}
Price = Literal["images", "flops", "hours", "energy"]
PRICES: dict[Price, tuple[str, Callable[[Cost], float]]] = {
    "images": ("images seen", lambda cost: cost.images),
    "flops": ("FLOPs", lambda cost: cost.flops),
    "hours": ("hours of training", lambda cost: cost.seconds / 3600),
    "energy": ("kWh", lambda cost: sum(cost.energy.values())),
}


@dataclass(frozen=True)
class Point:
    arm: str
    x: float
    mean: Mean


@dataclass(frozen=True)
class Curve:
    """One metric along the axis of a study."""

    metric: str
    axis: str  # its name
    points: tuple[Point, ...]  # by x
    law: Law | None
    why: str  # there is no law; nothing where there is one


@dataclass(frozen=True)
class Buy:
    """What an arm costs on average, and what it brings on the metric that decides."""

    arm: str
    cost: Cost
    mean: Mean
    front: tuple[Price, ...]  # by which no arm is at once as cheap and as good, and one of the two is more


def curves(study: Study, runs: tuple[Run, ...]) -> tuple[Curve, ...]:
    """Of each metric of a study with an axis that two arms have a value of."""
    if study.axis is None:
        return ()
    places = _places(study, runs)
    found = (_curve(study, runs, metric, places) for metric in study.metrics)
    return tuple(curve for curve in found if len(curve.points) > 1)


def _places(study: Study, runs: tuple[Run, ...]) -> dict[str, float]:
    """Arm -> where it lies on the axis: the mean over its finished runs."""
    assert study.axis is not None
    known: dict[str, list[float]] = {}
    facts = facts_of(runs)
    for (arm, _), each in facts.items():
        if value := getattr(each, study.axis):
            known.setdefault(arm, []).append(float(value))
    return {arm: float(np.mean(values)) for arm, values in known.items()}


def _curve(study: Study, runs: tuple[Run, ...], metric: str, places: dict[str, float]) -> Curve:
    assert study.axis is not None
    values = {arm: found for arm in places if (found := finals(runs, arm, metric))}
    arms = sorted(values, key=lambda arm: places[arm])
    points = tuple(Point(arm, places[arm], mean_of(list(values[arm].values()), study.decide.alpha)) for arm in arms)
    law = _law(study, metric, arms, values, places)
    return Curve(metric, AXES[study.axis], points, *((None, law) if isinstance(law, str) else (law, "")))


def _law(
    study: Study, metric: str, arms: Sequence[str], values: dict[str, dict[int, float]], places: dict[str, float]
) -> Law | str:
    if len({places[arm] for arm in arms}) < len(arms):
        return "two arms lie at the same place of the axis"
    seeds = [seed for seed in study.seeds if all(seed in values[arm] for arm in arms)]
    table = [[values[arm][seed] for seed in seeds] for arm in arms]
    if not np.isfinite(table).all():
        return "a run ended with a value that is no number"
    return scaling.fit([places[arm] for arm in arms], table, study.decide.alpha)


def possible(metric: str, interval: Interval | None) -> Interval | None:
    """What of an interval can be: no accuracy lies outside of 0 and 1."""
    if interval is None or not words.is_accuracy(metric):
        return interval
    return Interval(min(max(interval.low, 0.0), 1.0), min(max(interval.high, 0.0), 1.0))


def prices(costs: Sequence[Cost]) -> tuple[Price, ...]:
    """Those that are known of every arm: energy only where the same parts of all machines told of it."""
    told = {frozenset(cost.energy) for cost in costs}
    return tuple(price for price in PRICES if price != "energy" or (len(told) == 1 and told != {frozenset()}))


def buys(study: Study, runs: tuple[Run, ...], costs: Sequence[Cost]) -> tuple[Buy, ...]:
    """Nothing where all arms cost the same, in images and in FLOPs."""
    metric = study.decide.metric
    found = [(cost, list(finals(runs, cost.arm, metric).values())) for cost in costs]
    means = {cost.arm: (cost, mean_of(values, study.decide.alpha)) for cost, values in found if values}
    there = [(cost, mean) for cost, mean in means.values() if mean.mean is not None]
    if not any(_differ([PRICES[price][1](cost) for cost, _ in there]) for price in ("images", "flops")):
        return ()
    sign = 1 if words.higher_is_better(metric) else -1
    goods = {cost.arm: sign * (mean.mean or 0.0) for cost, mean in there}

    def front(mine: Cost, price: Price) -> bool:
        spent = PRICES[price][1]
        return not any(
            spent(other) <= spent(mine)
            and goods[other.arm] >= goods[mine.arm]
            and (spent(other), goods[other.arm]) != (spent(mine), goods[mine.arm])
            for other, _ in there
        )

    known = prices(costs)
    return tuple(Buy(cost.arm, cost, mean, tuple(p for p in known if front(cost, p))) for cost, mean in there)


def _differ(values: Sequence[float]) -> bool:
    return bool(values) and max(values) - min(values) > UNLIKE * max(values)
