"""The figures of a search, as SVG by hand: history, importances, slices, a contour, parallel coordinates, a front, rungs."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from markupsafe import Markup

from dinov2lab.report import axes, svg, words
from dinov2lab.report.axes import Axis, Frame

CELLS = 22  # of a contour, in each direction


class Dot(NamedTuple):
    """A trial in a figure."""

    x: Any
    y: Any
    share: float  # from poor (0) to good (1)
    label: str
    whole: bool = True  # ran to its end


def dots(frame: Frame, points: Sequence[Dot]) -> Iterator[str]:
    """Filled where the trial ran to its end, a ring where it was stopped."""
    for dot in sorted(points, key=lambda dot: dot.share):
        x, y = frame.at(dot.x, dot.y)
        paint = f"fill:{axes.colour(dot.share)}" if dot.whole else "fill:none;stroke:var(--muted)"
        kind = "dot" if dot.whole else "ring"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{kind}" style="{paint}">{svg.title(dot.label)}</circle>'


def history(points: Sequence[Dot], best: Sequence[tuple[float, float]], y: Axis) -> Markup:
    """Each trial's value by its number, and the best so far as steps."""
    last = max(dot.x for dot in points)
    frame = Frame(Axis("trial", 0, max(1, last)), y, width=740, height=280)
    steps = [frame.at(*corner) for corner in _steps([*best, (last, best[-1][1])])] if best else []
    parts = [*frame.drawn(), f'<path d="{svg.path(steps)}" class="best"/>', *dots(frame, points)]
    told = (
        f"Values of {len(points)} trials by number; the best so far ends at {words.number(best[-1][1])}"
        if best
        else "No value"
    )
    return svg.figure(frame.width, frame.height, told, parts)


def _steps(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    for before, after in pairwise(points):
        yield from (before, (after[0], before[1]))
    yield points[-1]


def bars(title: str, shares: Sequence[tuple[str, float]]) -> Markup:
    """Importances: shares of the variance."""
    width, row = 740.0, 30.0
    parts = [svg.text(0, 13, title, "start", "name")]
    for place, (name, share) in enumerate(shares):
        y = 28 + row * place
        parts.append(svg.text(0, y + 14, name, "start", "note"))
        parts.append(f'<rect x="330" y="{y + 2:.0f}" width="{max(1.0, 340 * share):.1f}" height="15" class="share"/>')
        parts.append(svg.text(338 + 340 * share, y + 14, f"{100 * share:.0f} %", "start", "note"))
    told = f"Importances, {title}: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
    return svg.figure(width, 32 + row * len(shares), told, parts)


def scatter(x: Axis, y: Axis, points: Sequence[Dot]) -> Markup:
    """A slice: one field against the value; or one metric against another."""
    frame = Frame(x, y)
    return svg.figure(
        frame.width,
        frame.height,
        f"{y.label} against {x.label}, {len(points)} trials",
        [*frame.drawn(), *dots(frame, points)],
    )


def contour(x: Axis, y: Axis, points: Sequence[Dot]) -> Markup:
    """Two fields: between the trials the colour is a mean of theirs, weighted by distance. No model, no promise."""
    frame = Frame(x, y, width=560, height=420, left=64)
    parts = list[str]()
    wide, high = (frame.right - frame.left) / CELLS, (frame.bottom - frame.top) / CELLS
    for row in range(CELLS):
        for column in range(CELLS):
            share = _mean_near((column + 0.5) / CELLS, (row + 0.5) / CELLS, x, y, points)
            at = f'x="{frame.left + column * wide:.2f}" y="{frame.bottom - (row + 1) * high:.2f}"'
            size = f'width="{wide:.2f}" height="{high:.2f}"'
            parts.append(f'<rect {at} {size} style="fill:{axes.colour(share)}" class="cell"/>')
    told = f"{y.label} against {x.label}: {len(points)} trials, coloured from poor to good"
    return svg.figure(frame.width, frame.height, told, [*parts, *frame.drawn(), *dots(frame, points)])


def _mean_near(x: float, y: float, across: Axis, up: Axis, points: Sequence[Dot]) -> float:
    weights = [1 / (1e-3 + (across.place(dot.x) - x) ** 2 + (up.place(dot.y) - y) ** 2) ** 2 for dot in points]
    return sum(weight * dot.share for weight, dot in zip(weights, points, strict=True)) / sum(weights)


def parallel(fields: Sequence[Axis], trials: Sequence[tuple[Sequence[Any], float, str]]) -> Markup:
    """One line a trial through its values, the good ones on top. None: the trial has no such field, and its line breaks."""
    width, top, bottom, left = 740.0, 42.0, 262.0, 60.0
    gap = (width - 2 * left) / max(1, len(fields) - 1)
    parts = list[str]()
    for values, share, label in sorted(trials, key=lambda each: each[1]):
        corners = [
            (left + gap * place, bottom - axis.place(value) * (bottom - top) if value is not None else math.nan)
            for place, (axis, value) in enumerate(zip(fields, values, strict=True))
        ]
        style = f"stroke:{axes.colour(share)};opacity:{0.25 + 0.75 * share:.2f}"
        parts.append(f'<path d="{svg.path(corners)}" class="trial" style="{style}">{svg.title(label)}</path>')
    for place, axis in enumerate(fields):
        at = left + gap * place
        parts.append(svg.line(at, top, at, bottom, "zero"))
        anchor = "start" if place == 0 else "end" if place == len(fields) - 1 else "middle"
        parts.append(
            svg.text(at - 40 * (place == 0) + 40 * (anchor == "end"), 13 + 15 * (place % 2), axis.label, anchor, "note")
        )
        parts += [svg.text(at + 5, bottom - share * (bottom - top) + 4, word) for share, word in axis.ticks()]
    return svg.figure(
        width, bottom + 14, f"{len(trials)} trials across {', '.join(axis.label for axis in fields)}", parts
    )


def rungs(
    curves: Sequence[tuple[Sequence[tuple[float, float]], float, bool, str]], levels: Sequence[int], y: Axis
) -> Markup:
    """Looks during training, one line a run; those that were stopped in grey, with the rungs as marks."""
    last = max(at for points, *_ in curves for at, _ in points)
    frame = Frame(Axis("images seen", 0, last), y, width=740, height=300)
    parts = list(frame.drawn())
    for level in levels:
        at, _ = frame.at(level, y.low)
        parts += [
            svg.line(at, frame.top, at, frame.bottom, "mark"),
            svg.text(at, frame.top - 4, f"rung {words.amount(level)}", "middle"),
        ]
    for points, share, whole, label in sorted(curves, key=lambda each: (each[2], each[1])):
        corners = [frame.at(*point) for point in points]
        paint = axes.colour(share) if whole else "var(--muted)"
        parts.append(f'<path d="{svg.path(corners)}" class="run" style="stroke:{paint}">{svg.title(label)}</path>')
        parts.append(f'<circle cx="{corners[-1][0]:.1f}" cy="{corners[-1][1]:.1f}" r="2.5" style="fill:{paint}"/>')
    stopped = sum(not whole for *_, whole, _ in curves)
    return svg.figure(
        frame.width, frame.height, f"Looks of {len(curves)} runs; {stopped} were stopped at a rung", parts
    )
