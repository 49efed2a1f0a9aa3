"""The parts of an SVG that figures are made of; whatever text goes in is escaped, and names no folder of this machine."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from markupsafe import Markup

from dinov2lab.report import words

Point = tuple[float, float]


def text(x: float, y: float, text: str, anchor: str = "start", kind: str = "tick") -> str:
    clean = escape(words.without_folders(text))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{clean}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str, style: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{style}/>'


def path(points: Sequence[Point]) -> str:
    """An SVG path that breaks where a value is no number."""
    parts, pen = [], "M"
    for at, value in points:
        if math.isfinite(value):
            parts.append(f"{pen}{at:.1f} {value:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def title(label: str) -> str:
    return f"<title>{escape(words.without_folders(label))}</title>"


def figure(width: float, height: float, label: str, parts: Iterable[str]) -> Markup:
    """Everything that reaches this has been escaped."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
    name = escape(words.without_folders(label), quote=True)
    return Markup(f'{head}aria-label="{name}">{"".join(parts)}</svg>')
