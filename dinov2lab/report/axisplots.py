"""Figures along a numeric axis, as SVG by hand: a metric and its law, and quality against what it costs."""

from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from dinov2lab.report import axes, svg, words
from dinov2lab.report.along import PRICES, Buy, Curve, Price
from dinov2lab.report.axes import Axis, Frame
from dinov2lab.report.figures import colour
from dinov2lab.report.statistics import Mean

STEPS = 60  # of a drawn law


def curve(shown: Curve, place: dict[str, int]) -> Markup:
    """Means with their own intervals, and the law where there is one, up to what it forecasts."""
    scale, law = words.scale(shown.metric), shown.law
    xs = [point.x for point in shown.points]
    last = law.ahead if law and not law.refusal else max(xs)
    means = [point.mean for point in shown.points]
    ends = list(law.forecast_interval) if law and not law.refusal else []
    frame = Frame(_logarithmic(shown.axis, min(xs), last), _upright(shown.metric, means, ends))
    parts = [*frame.drawn()]
    if law:
        drawn = np.geomspace(min(xs), last, STEPS)
        points = [frame.at(x, scale * y) for x, y in zip(drawn.tolist(), law.at(drawn).tolist(), strict=True)]
        parts.append(f'<path d="{svg.path(points)}" class="best"/>')
    if ends:
        parts += _upright_bar(frame, last, [scale * end for end in ends], "stroke:var(--muted)")
    for point in shown.points:
        parts += _dot(frame, point.x, point.mean, scale, colour(place[point.arm]), point.arm)
    told = "; ".join(f"{words.amount(point.x)}: {_told(shown.metric, point.mean)}" for point in shown.points)
    return svg.figure(frame.width, frame.height, f"{words.title(shown.metric)} against {shown.axis}. {told}", parts)


def front(buys: Sequence[Buy], metric: str, price: Price, place: dict[str, int]) -> Markup:
    """The arms, and as steps the best that can be had for so much."""
    name, spent = PRICES[price]
    scale, costs = words.scale(metric), [spent(buy.cost) for buy in buys]
    frame = Frame(_logarithmic(name, min(costs), max(costs)), _upright(metric, [buy.mean for buy in buys]))
    best = sorted((spent(buy.cost), scale * (buy.mean.mean or 0.0)) for buy in buys if price in buy.front)
    corners = [frame.at(*corner) for corner in _steps(best, max(costs))]
    parts = [*frame.drawn(), f'<path d="{svg.path(corners)}" class="best"/>']
    for buy in buys:
        parts += _dot(frame, spent(buy.cost), buy.mean, scale, colour(place[buy.arm]), buy.arm)
    on = words.listed([buy.arm for buy in buys if price in buy.front])
    return svg.figure(frame.width, frame.height, f"{words.title(metric)} against {name}. On the front: {on}", parts)


def _steps(best: Sequence[tuple[float, float]], last: float) -> Iterator[tuple[float, float]]:
    before: float | None = None
    for x, y in best:
        if before is not None:
            yield x, before
        yield x, y
        before = y
    if before is not None:
        yield last, before


def _dot(frame: Frame, x: float, mean: Mean, scale: float, paint: str, label: str) -> Iterator[str]:
    if mean.interval:
        yield from _upright_bar(frame, x, [scale * end for end in mean.interval], f"stroke:{paint}")
    across, up = frame.at(x, scale * (mean.mean or 0.0))
    yield f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4.5" class="dot" style="fill:{paint}">{svg.title(label)}</circle>'


def _upright_bar(frame: Frame, x: float, ends: Sequence[float], style: str) -> Iterator[str]:
    (at, low), (_, high) = frame.at(x, ends[0]), frame.at(x, ends[1])
    yield svg.line(at, low, at, high, "interval", f' style="{style}"')
    yield from (svg.line(at - 4, end, at + 4, end, "interval", f' style="{style}"') for end in (low, high))


def _logarithmic(name: str, low: float, high: float) -> Axis:
    if low <= 0 or high <= low:
        return Axis(name, low - 1, high + 1)
    room = (high / low) ** 0.06
    return Axis(name, low / room, high * room, log=True)


def _upright(metric: str, means: Sequence[Mean], also: Sequence[float] = ()) -> Axis:
    scale = words.scale(metric)
    ends = [scale * each for mean in means for each in (mean.mean or 0.0, *(mean.interval or ()))]
    ends += [scale * each for each in also]
    return axes.spanning(words.heading(metric), min(ends), max(ends))


def _told(metric: str, mean: Mean) -> str:
    return words.value(metric, mean.mean) + (f" ({words.span(metric, mean.interval)})" if mean.interval else "")
