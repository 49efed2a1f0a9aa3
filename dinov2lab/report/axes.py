"""Axes, the frame that two of them span, and colours: a range, linear or logarithmic, or choices side by side."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinov2lab.report import svg, words
from dinov2lab.spec.search import Dimension

STOPS = ((70, 50, 126), (49, 104, 142), (33, 145, 140), (94, 190, 98), (226, 190, 40))  # from poor to good

FAR = 3.0  # interquartile ranges


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high], some `count` of them."""
    rough = (high - low) / max(1, count)
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _power(value: float) -> str:
    return words.amount(value) if value >= 1000 else words.tick(value) if value >= 0.01 else f"{value:.0e}"


def _tick(value: float) -> str:
    return words.amount(value) if abs(value) >= 10_000 else words.tick(value)


@dataclass(frozen=True)
class Axis:
    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    names: tuple[str, ...] = ()  # choices
    written: Callable[[float], str] = _tick

    def place(self, value: Any) -> float:
        """From 0 to 1; what lies beyond an end is put there."""
        if self.names:
            return (self.names.index(shown(value)) + 0.5) / len(self.names)
        low, high, at = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return min(max(float((at - low) / ((high - low) or 1)), 0.0), 1.0)

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """(place, what is written there)."""
        if self.names:
            return [((place + 0.5) / len(self.names), name) for place, name in enumerate(self.names)]
        if not self.log:
            return [(self.place(value), self.written(value)) for value in ticks(self.low, self.high, count)]
        powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        values = [10.0**power for power in powers]
        if len(values) < 2:
            values = [float(f"{self.low:.2g}"), *values, float(f"{self.high:.2g}")]
        return [(self.place(value), _power(value)) for value in values]


@dataclass(frozen=True)
class Frame:
    """A plot's place: axes drawn, and where values lie in it."""

    x: Axis
    y: Axis
    width: float = 360.0
    height: float = 232.0
    left: float = 50.0
    top: float = 26.0

    @property
    def right(self) -> float:
        return self.width - 10

    @property
    def bottom(self) -> float:
        return self.height - 36

    def at(self, x: Any, y: Any) -> tuple[float, float]:
        across, up = self.x.place(x), self.y.place(y)
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def drawn(self) -> Iterator[str]:
        yield svg.text(0, 13, self.y.label, "start", "name")
        for share, word in self.y.ticks():
            at = self.bottom - share * (self.bottom - self.top)
            yield svg.line(self.left, at, self.right, at, "grid")
            yield svg.text(self.left - 6, at + 4, word, "end")
        for share, word in self.x.ticks():
            at = self.left + share * (self.right - self.left)
            yield svg.text(at, self.bottom + 16, word, "end" if at > self.right - 12 else "middle")
        yield svg.text(self.right, self.bottom + 31, self.x.label, "end")


def of_field(name: str, dimension: Dimension) -> Axis:
    if dimension.choices is not None:
        return Axis(name, names=tuple(map(shown, dimension.choices)))
    assert dimension.bounds is not None
    low, high = dimension.bounds
    return Axis(name, low, high, dimension.log is not None)


def of_values(label: str, values: Sequence[float]) -> Axis:
    """Some room around the finite `values`; far outliers do not squeeze the rest."""
    quarter, three = np.quantile(values, (0.25, 0.75))
    low, high = max(min(values), quarter - FAR * (three - quarter)), min(max(values), three + FAR * (three - quarter))
    if low >= high:
        low, high = min(values), max(values)
    return spanning(label, low, high)


def spanning(label: str, low: float, high: float) -> Axis:
    """With some room beyond either end."""
    pad = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return Axis(label, low - pad, high + pad)


def shown(value: Any) -> str:
    """A value of a field, short."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def colour(share: float) -> str:
    """From poor (0) to good (1), told apart on light and on dark pages."""
    at = min(max(share, 0.0), 1.0) * (len(STOPS) - 1)
    first = min(int(at), len(STOPS) - 2)
    mixed = (round(a + (b - a) * (at - first)) for a, b in zip(STOPS[first], STOPS[first + 1], strict=True))
    return f"rgb({','.join(map(str, mixed))})"
