"""Figures as SVG written by hand: they take the page's colours, light or dark, and its type, and weigh little.

An arm's colour is the variable --arm-N of templates/colours.css (Okabe and Ito's palette), N its place among the arms.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dinov2lab.report import svg, words
from dinov2lab.report.statistics import Interval

COLOURS = 8
POINTS = 200  # of one line; more are averaged in bins


class Line(NamedTuple):
    """One run on one metric."""

    arm: int  # place among the arms
    label: str
    points: Sequence[svg.Point]  # (images seen, value)
    spread: Sequence[
        tuple[float, float, float]
    ] = ()  # (images seen, low, high) of the many runs that the line stands for


@dataclass(frozen=True)
class Panel:
    title: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, str], ...] = ()  # horizontal: value, what it stands for
    scale: float = 1.0
    unit: str = ""


class ForestRow(NamedTuple):
    arm: int
    label: str
    text: str
    mean: float | None
    interval: Interval | None
    seeds: tuple[float, ...]


def colour(arm: int) -> str:
    return f"var(--arm-{arm % COLOURS})"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high], some `count` of them."""
    rough = (high - low) / max(1, count)
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thinned(points: Sequence[svg.Point]) -> list[svg.Point]:
    """At most POINTS points: means of consecutive ones. A bin without any finite value is a gap."""
    if len(points) <= POINTS:
        return list(points)
    bins = np.array_split(np.asarray(points, dtype=np.float64), POINTS)
    return [(float(part[:, 0].mean()), _mean(part[:, 1])) for part in bins]


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.mean(finite)) if finite.size else math.nan


def forest(rows: Sequence[ForestRow], baseline: str, axis: str, scale: float) -> Markup:
    """Paired differences to the baseline: the interval, the mean, and each seed's difference as a ring."""
    width, row_height, top, left, right = 520.0, 50.0, 22.0, 14.0, 506.0
    height = top + row_height * len(rows) + 44
    shown = [0.0, *(scale * end for row in rows for end in (*row.seeds, *(row.interval or ())))]
    low, high = min(shown), max(shown)
    pad = 0.06 * (high - low) or 1.0
    low, high = low - pad, high + pad
    bottom = height - 40

    def x(value: float) -> float:
        return float(left + (value - low) / (high - low) * (right - left))

    parts = list[str]()
    for index in range(len(rows)):  # below each row's words, so that no line runs through them
        above, below = top + row_height * index + 22, top + row_height * (index + 1)
        parts += [svg.line(x(tick), above, x(tick), below, "grid") for tick in ticks(low, high, 6)]
        parts.append(svg.line(x(0), above, x(0), below, "zero"))
    parts += [svg.text(x(tick), bottom + 16, _signed(tick), "middle") for tick in ticks(low, high, 6)]
    anchor = "start" if x(0) < 120 else "end" if x(0) > 400 else "middle"
    parts.append(svg.text(x(0), top - 10, f"{baseline} = 0", anchor))
    parts.append(svg.text((left + right) / 2, bottom + 34, axis, "middle"))
    for index, row in enumerate(rows):
        parts += _forest_row(row, top + row_height * index, lambda value: x(scale * value), left, right)
    told = "; ".join(f"{row.label} {row.text}" for row in rows)
    return svg.figure(width, height, f"Differences to {baseline}. {told}", parts)


def _forest_row(row: ForestRow, y: float, x: Callable[[float], float], left: float, right: float) -> Iterable[str]:
    paint, middle = f' style="stroke:{colour(row.arm)}"', y + 31
    yield svg.text(left, y + 17, row.label, "start", "name")
    yield svg.text(right, y + 17, row.text, "end", "note")
    if row.interval:
        low, high = x(row.interval.low), x(row.interval.high)
        yield svg.line(low, middle, high, middle, "interval", paint)
        yield from (svg.line(end, middle - 5, end, middle + 5, "interval", paint) for end in (low, high))
    for value in row.seeds:
        yield f'<circle cx="{x(value):.1f}" cy="{middle + 11:.1f}" r="3" class="seed"{paint}/>'
    if row.mean is not None:
        at = x(row.mean)
        diamond = (
            f"{at:.1f},{middle - 7:.1f} {at + 7:.1f},{middle:.1f} {at:.1f},{middle + 7:.1f} {at - 7:.1f},{middle:.1f}"
        )
        yield f'<polygon points="{diamond}" style="fill:{colour(row.arm)}"/>'


def _signed(value: float) -> str:
    return f"+{words.tick(value)}" if value > 0 else words.tick(value)


def panel(panel: Panel, legend: Sequence[str] = ()) -> Markup:
    """Values against images seen, one thin line a run. `legend` (the arms) is for where no page gives one."""
    width, left, top, right = 360.0, 48.0, 26.0, 350.0
    bottom = 196.0
    lines = [line._replace(points=thinned(line.points)) for line in panel.lines]
    xs = [x for line in lines for x, _ in line.points]
    marks = [(panel.scale * value, text) for value, text in panel.marks]
    ys = [panel.scale * y for line in lines for _, y in line.points if math.isfinite(y)] + [value for value, _ in marks]
    ys += [panel.scale * end for line in lines for _, low, high in line.spread for end in (low, high)]
    if not xs or not ys:
        return Markup("")
    last = max(xs)
    low, high = min(ys), max(ys)
    pad = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return left + value / (last or 1) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = [svg.text(0, 13, panel.title, "start", "name")]
    for tick in ticks(low, high, 4):
        parts += [
            svg.line(left, y(tick), right, y(tick), "grid"),
            svg.text(left - 6, y(tick) + 4, words.tick(tick), "end"),
        ]
    steps = ticks(0, last, 4)
    parts += [
        svg.text(x(tick), bottom + 16, words.amount(tick), "end" if x(tick) > right - 12 else "middle")
        for tick in steps
    ]
    parts.append(svg.text(right, bottom + 31, "images seen", "end"))
    for value, text in marks:
        parts += [svg.line(left, y(value), right, y(value), "mark"), svg.text(right - 2, y(value) - 4, text, "end")]
    for line in lines:
        if line.spread:
            lows = [(x(at), y(panel.scale * low)) for at, low, _ in line.spread]
            highs = [(x(at), y(panel.scale * high)) for at, _, high in reversed(line.spread)]
            parts.append(f'<path d="{svg.path([*lows, *highs])}Z" class="band" style="fill:{colour(line.arm)}"/>')
        path = svg.path([(x(at), y(panel.scale * value)) for at, value in line.points])
        parts.append(
            f'<path d="{path}" class="run" style="stroke:{colour(line.arm)}"><title>{escape(line.label)}</title></path>'
        )
    for index, arm in enumerate(legend):
        at = bottom + 48 + 16 * index
        parts += [
            svg.line(left, at - 4, left + 18, at - 4, "run", f' style="stroke:{colour(index)}"'),
            svg.text(left + 24, at, arm),
        ]
    return svg.figure(width, bottom + 36 + 16 * len(legend), _told(panel), parts)


def _told(panel: Panel) -> str:
    """The figure in words: where each run ends."""
    ends = [f"{line.label} {words.number(panel.scale * line.points[-1][1])}" for line in panel.lines if line.points]
    marks = [f"{text} {words.number(panel.scale * value)}" for value, text in panel.marks]
    return f"{panel.title} against images seen. Last values: {', '.join(ends)}. {', '.join(marks)}"
