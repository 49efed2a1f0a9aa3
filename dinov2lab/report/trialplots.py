"""Which figures the report of a search shows, drawn from its trials."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from dinov2lab.report import axes, plots, recipe, words
from dinov2lab.report.axes import Axis
from dinov2lab.report.plots import Dot
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.trials import Trial, best_trials


class Drawn(NamedTuple):
    section: str
    name: str  # of its file
    title: str
    svg: Markup


class _Scored(NamedTuple):
    trial: Trial
    value: float  # of the first metric, in per cent where it is an accuracy
    share: float  # from the worst (0) to the best (1), by rank: one bad trial must not grey out all the others
    label: str


def drawn(search: SearchSpec, trials: Sequence[Trial], importances: dict[str, Any]) -> list[Drawn]:
    """Nothing, as long as no trial has a value."""
    scored = _scored(search, trials)
    if not scored:
        return []
    value = axes.of_values(words.heading(next(iter(search.metrics))), [each.value for each in scored])
    whole = [each for each in scored if each.trial.state == "complete"]
    found = [Drawn("history", "history", "values by trial", _history(search, scored, value))]
    found += _front(search, scored)
    for metric, shares in importances.get("values", {}).items():
        name = f"importances-{words.title(metric).replace(' ', '-')}"
        found.append(
            Drawn(
                "importances",
                name,
                f"importances for {words.title(metric)}",
                plots.bars(words.title(metric), list(shares.items())),
            )
        )
    fields = {key: axes.of_field(_short(key, search), dimension) for key, dimension in search.space.items()}
    for place, (key, axis) in enumerate(fields.items()):
        points = [_dot(each, each.trial.point[key], each.value) for each in scored if key in each.trial.point]
        if points:
            found.append(
                Drawn("slices", f"slice-{place + 1}", f"{key} against the value", plots.scatter(axis, value, points))
            )
    return [
        *found,
        *_contour(search, fields, whole, importances),
        *_parallel(fields, whole),
        *_rungs(search, scored, value),
    ]


def _short(key: str, search: SearchSpec) -> str:
    """The shortest ending of a dotted key that no other field of the space ends in."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        if not tail.isdecimal() and sum(f".{other}".endswith(f".{tail}") for other in search.space) == 1:
            return tail
    return key


def _scored(search: SearchSpec, trials: Sequence[Trial]) -> list[_Scored]:
    """The trials that have a value; several of one run as the last of them."""
    metric, direction = next(iter(search.metrics.items()))
    kept = {trial.runs: trial for trial in trials if trial.values and math.isfinite(trial.values[0])}
    factor = words.scale(metric)
    sign = 1 if direction == "maximize" else -1
    ranked = sorted(kept.values(), key=lambda trial: sign * (trial.values or (0.0,))[0])
    found = []
    for place, trial in enumerate(ranked):
        assert trial.values
        label = f"trial {trial.number}, {trial.state}: {words.value(metric, trial.values[0])}; {_point(trial)}"
        found.append(_Scored(trial, factor * trial.values[0], place / max(1, len(ranked) - 1), label))
    return found


def _point(trial: Trial) -> str:
    return ", ".join(f"{key} {recipe.short(value)}" for key, value in trial.point.items())


def _dot(each: _Scored, x: Any, y: Any) -> Dot:
    return Dot(x, y, each.share, each.label, each.trial.state == "complete")


def _history(search: SearchSpec, scored: Sequence[_Scored], value: Axis) -> Markup:
    by_number = sorted(scored, key=lambda each: each.trial.number)
    better = max if next(iter(search.metrics.values())) == "maximize" else min
    best = list[tuple[float, float]]()
    for each in by_number:
        if each.trial.state == "complete":
            best.append((each.trial.number, better(each.value, best[-1][1]) if best else each.value))
    return plots.history([_dot(each, each.trial.number, each.value) for each in by_number], best, value)


def _front(search: SearchSpec, scored: Sequence[_Scored]) -> Iterator[Drawn]:
    """Two metrics against each other, those on the front filled."""
    if len(search.metrics) < 2:
        return
    (first, second, *_), front = (
        search.metrics,
        {trial.number for trial in best_trials(search, [each.trial for each in scored])},
    )
    pairs = [(each, (each.trial.values or (0.0, 0.0))[1]) for each in scored]
    x = axes.of_values(words.heading(second), [other for _, other in pairs])
    y = axes.of_values(words.heading(first), [each.value for each in scored])
    points = [
        Dot(other, each.value, 1.0 if each.trial.number in front else 0.0, each.label, each.trial.number in front)
        for each, other in pairs
    ]
    yield Drawn("front", "front", f"{first} against {second}", plots.scatter(x, y, points))


def _contour(
    search: SearchSpec, fields: dict[str, Axis], whole: Sequence[_Scored], importances: dict[str, Any]
) -> Iterator[Drawn]:
    """Of the two fields that matter most, where that is known, else of the first two; a choice has no between."""
    order = list(next(iter(importances.get("values", {}).values()), {})) or list(fields)
    x, y, *_ = [*[key for key in order if key in fields and not fields[key].names], None, None]
    if x is None or y is None:
        return
    points = [
        _dot(each, each.trial.point[x], each.trial.point[y]) for each in whole if {x, y} <= each.trial.point.keys()
    ]
    if len(points) >= 4:
        yield Drawn("contour", "contour", f"{x} and {y}", plots.contour(fields[x], fields[y], points))


def _parallel(fields: dict[str, Axis], whole: Sequence[_Scored]) -> Iterator[Drawn]:
    if len(fields) > 1 and len(whole) > 1:
        rows = [([each.trial.point.get(key) for key in fields], each.share, each.label) for each in whole]
        yield Drawn("parallel", "parallel", "parallel coordinates", plots.parallel(list(fields.values()), rows))


def _rungs(search: SearchSpec, scored: Sequence[_Scored], value: Axis) -> Iterator[Drawn]:
    """Looks during training; only a search with rungs reads them, but they are there for any search of single runs."""
    metric = next(iter(search.metrics))
    factor = words.scale(metric)
    curves = [
        (
            [(float(at), factor * seen) for at, seen in each.trial.looks],
            each.share,
            each.trial.state == "complete",
            each.label,
        )
        for each in scored
        if len(each.trial.looks) > 0 and len(search.seeds) == 1
    ]
    if curves:
        seen = [look for points, *_ in curves for _, look in points]
        axis = axes.of_values(value.label, seen)
        yield Drawn("rungs", "rungs", "looks during training", plots.rungs(curves, search.levels, axis))
