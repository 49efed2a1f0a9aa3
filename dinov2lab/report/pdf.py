"""A figure of ours as PDF, for a paper: the shapes that figures.py draws, in the colours of a light page, text as text.

Only what those figures use is known: line, rect, circle, polygon, path of M, L and Z, text; the classes of colours.css and a
style of the element's own. Any other shape is an error. Helvetica is the reader's own; a letter that it lacks becomes a
question mark.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

CSS = Path(__file__).parent / "templates" / "colours.css"
SPACE = "{http://www.w3.org/2000/svg}"
ROUND = 0.5523  # of a radius: where a quarter circle's Bezier handles lie
LETTERS = str.maketrans({"−": "–", "\u202f": " ", "\u00a0": " ", "→": "›"})  # what Helvetica's encoding lacks
# Advance widths of Helvetica in thousandths of its size, from the blank to the tilde (Adobe's metrics of the base fonts).
WIDTHS = """
278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 278 584
584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 667 944 667 667
611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 278 556 500
722 500 500 500 334 260 334 584
""".split()  # noqa: SIM905 (a table, as it is printed)

Style = Mapping[str, str]


def as_pdf(svg: str) -> bytes:
    """One page of the figure's size, in points. Raises ValueError for a shape that is not known."""
    root = ElementTree.fromstring(svg)
    _, _, width, height = (float(each) for each in root.attrib["viewBox"].split())
    opacities: dict[str, str] = {}
    drawn = [f"1 0 0 -1 0 {height:g} cm", *(line for shape in root for line in _drawn(shape, opacities))]
    return _file(width, height, "\n".join(drawn).encode("cp1252", "replace"), opacities)


def _drawn(shape: ElementTree.Element, opacities: dict[str, str]) -> Iterator[str]:
    kind, style = shape.tag.removeprefix(SPACE), _style(shape)
    if kind in ("style", "title"):
        return
    yield "q"
    if "opacity" in style:
        yield f"/{opacities.setdefault(style['opacity'], f'G{len(opacities)}')} gs"
    if kind == "text":
        yield from _text(shape, style)
    else:
        fill, stroke = _colour(style.get("fill", "#000000")), _colour(style.get("stroke", "none"))
        fill = None if kind == "line" else fill
        yield from (f"{fill} rg" if fill else "", f"{stroke} RG" if stroke else "")
        yield f"{style.get('stroke-width', '1').removesuffix('px')} w [{style.get('stroke-dasharray', '')}] 0 d 1 j"
        yield from _outline(kind, shape.attrib)
        yield {(True, True): "B", (True, False): "f", (False, True): "S"}.get((bool(fill), bool(stroke)), "n")
    yield "Q"


def _outline(kind: str, at: Mapping[str, str]) -> Iterator[str]:
    match kind:
        case "line":
            yield f"{at['x1']} {at['y1']} m {at['x2']} {at['y2']} l"
        case "rect":
            yield f"{at['x']} {at['y']} {at['width']} {at['height']} re"
        case "polygon":
            first, *rest = [point.replace(",", " ") for point in at["points"].split()]
            yield f"{first} m {' '.join(f'{point} l' for point in rest)} h"
        case "path":
            for letter, point in re.findall(r"([MLZ])([^MLZ]*)", at["d"]):
                yield f"{point} {'m' if letter == 'M' else 'l'}" if point else "h"
        case "circle":
            yield _circle(*(float(at[name]) for name in ("cx", "cy", "r")))
        case _:
            raise ValueError(f"a figure has a shape that no PDF is drawn of: {kind}")


def _circle(x: float, y: float, r: float) -> str:
    k = ROUND * r
    quarters = [
        (x + r, y + k, x + k, y + r, x, y + r),
        (x - k, y + r, x - r, y + k, x - r, y),
        (x - r, y - k, x - k, y - r, x, y - r),
        (x + k, y - r, x + r, y - k, x + r, y),
    ]
    return f"{x + r:.2f} {y:.2f} m " + " ".join(" ".join(f"{each:.2f}" for each in part) + " c" for part in quarters)


def _text(shape: ElementTree.Element, style: Style) -> Iterator[str]:
    words = (shape.text or "").translate(LETTERS)
    size = float(style.get("font-size", "16px").removesuffix("px"))
    width = sum(int(WIDTHS[ord(letter) - 32]) if " " <= letter <= "~" else 556 for letter in words) * size / 1000
    x = float(shape.attrib["x"]) - width * {"middle": 0.5, "end": 1.0}.get(shape.attrib.get("text-anchor", ""), 0.0)
    escaped = re.sub(r"([\\()])", r"\\\1", words)
    font = "B" if int(style.get("font-weight", "400")) >= 600 else "R"
    yield f"{_colour(style.get('fill', '#000000'))} rg"
    yield f"BT /{font} {size:g} Tf 1 0 0 -1 {x:.2f} {shape.attrib['y']} Tm ({escaped}) Tj ET"


def _style(shape: ElementTree.Element) -> Style:
    named = _rules().get(shape.attrib.get("class", ""), {})
    return named | _declared(shape.attrib.get("style", ""))


@cache
def _rules() -> dict[str, dict[str, str]]:
    rules = re.findall(r"^svg \.(\w+) \{(.*)\}$", CSS.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: _declared(text) for name, text in rules}


@cache
def _variables() -> dict[str, str]:
    light, _, _ = CSS.read_text(encoding="utf-8").partition("@media")
    return dict(re.findall(r"(--[\w-]+): (#\w+);", light))


def _declared(text: str) -> dict[str, str]:
    return {
        name.strip(): value.strip() for name, _, value in (each.partition(":") for each in text.split(";")) if value
    }


def _colour(value: str) -> str | None:
    """Three numbers from 0 to 1; None for none."""
    if value.startswith("var("):
        value = _variables()[value[4:-1]]
    if value == "none":
        return None
    return " ".join(f"{int(value[place : place + 2], 16) / 255:.3f}" for place in (1, 3, 5))


def _file(width: float, height: float, content: bytes, opacities: Mapping[str, str]) -> bytes:
    states = "".join(f"/{name} << /ca {value} /CA {value} >> " for value, name in opacities.items())
    stream = zlib.compress(content, 9)
    fonts = [f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>" for name in FONTS]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:g} {height:g}] /Contents 4 0 R "
            f"/Resources << /Font << /R 5 0 R /B 6 0 R >> /ExtGState << {states}>> >> >>"
        ).encode(),
        f"<< /Length {len(stream)} /Filter /FlateDecode >>\nstream\n".encode() + stream + b"\nendstream",
        *(font.encode() for font in fonts),
    ]
    written, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(written))
        written += f"{number} 0 obj\n".encode() + each + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    count = len(objects) + 1
    end = f"xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n<< /Size {count} /Root 1 0 R >>\n"
    return written + f"{end}startxref\n{len(written)}\n%%EOF\n".encode()


FONTS = ("Helvetica", "Helvetica-Bold")
