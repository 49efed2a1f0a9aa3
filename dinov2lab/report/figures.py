"""Figures as SVG written by hand: they take the page's colours, light or dark, and its type, and weigh little.

An arm's colour is the variable --arm-N of templates/colours.css (Okabe and Ito's palette), N its place among the arms.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dinov2lab.report import axes, svg, words
from dinov2lab.report.axes import Axis, Frame, ticks
from dinov2lab.report.statistics import Interval

COLOURS = 8
POINTS = 200  # of one line; more are averaged in bins


class Line(NamedTuple):
    """One run on one metric."""

    arm: int  # place among the arms
    label: str
    points: Sequence[svg.Point]  # (images seen, value)
    # (images seen, low, high) of the many runs that the line stands for
    spread: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Panel:
    title: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, str], ...] = ()  # horizontal: value, what it stands for
    scale: float = 1.0


class ForestRow(NamedTuple):
    arm: int
    label: str
    text: str
    mean: float | None
    interval: Interval | None
    seeds: tuple[float, ...]


def colour(arm: int) -> str:
    return f"var(--arm-{arm % COLOURS})"


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
    lines = [line._replace(points=thinned(line.points)) for line in panel.lines]
    xs = [x for line in lines for x, _ in line.points]
    marks = [(panel.scale * value, text) for value, text in panel.marks]
    ys = [panel.scale * y for line in lines for _, y in line.points if math.isfinite(y)] + [value for value, _ in marks]
    ys += [panel.scale * end for line in lines for _, low, high in line.spread for end in (low, high)]
    if not xs or not ys:
        return Markup("")
    frame = Frame(Axis("images seen", 0, max(xs), written=words.amount), axes.spanning(panel.title, min(ys), max(ys)))
    parts = list(frame.drawn())
    for value, text in marks:
        _, at = frame.at(0, value)
        parts += [svg.line(frame.left, at, frame.right, at, "mark"), svg.text(frame.right - 2, at - 4, text, "end")]
    for line in lines:
        parts += _run(line, panel.scale, frame)
    for index, arm in enumerate(legend):
        left, at = frame.left, frame.bottom + 48 + 16 * index
        parts.append(svg.line(left, at - 4, left + 18, at - 4, "run", f' style="stroke:{colour(index)}"'))
        parts.append(svg.text(left + 24, at, arm))
    return svg.figure(frame.width, frame.height + 16 * len(legend), _told(panel), parts)


def _run(line: Line, scale: float, frame: Frame) -> Iterator[str]:
    if line.spread:
        lows = [frame.at(x, scale * low) for x, low, _ in line.spread]
        highs = [frame.at(x, scale * high) for x, _, high in reversed(line.spread)]
        yield f'<path d="{svg.path([*lows, *highs])}Z" class="band" style="fill:{colour(line.arm)}"/>'
    points = [frame.at(x, scale * y if math.isfinite(y) else math.nan) for x, y in line.points]  # not at an end: a gap
    yield f'<path d="{svg.path(points)}" class="run" style="stroke:{colour(line.arm)}">{svg.title(line.label)}</path>'


def _told(panel: Panel) -> str:
    """The figure in words: where each run ends."""
    ends = [f"{line.label} {words.number(panel.scale * line.points[-1][1])}" for line in panel.lines if line.points]
    marks = [f"{text} {words.number(panel.scale * value)}" for value, text in panel.marks]
    return f"{panel.title} against images seen. Last values: {', '.join(ends)}. {', '.join(marks)}"
