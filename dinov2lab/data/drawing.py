"""The pictures of toyweb: drawn by code, many at once.

B images   P pixels of a side   y and x run from -1 to 1   colours from 0 to 1
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Pictures = NDArray[np.uint8]  # (B, P, P, 3)
Pattern = Callable[[Floats, Floats], Floats]  # of coordinates u, v (B, P, P) in the object's own frame

PX = 32
SHAPES = ("disc", "square", "triangle", "cross")
TEXTURES = ("stripes", "checks", "dots", "rings")
# Two corners of the colour cube for each concept, numbered 4 red + 2 green + blue: the diagonals of its faces and its own.
# Two or four palettes share each mean, so that an average colour does not name the palette: one must see both inks.
PALETTES = (
    ((0, 3), (1, 2)),  # black cyan, blue green
    ((4, 7), (5, 6)),  # red white, magenta yellow
    ((0, 5), (1, 4)),  # black magenta, blue red
    ((2, 7), (3, 6)),  # green white, cyan yellow
    ((0, 6), (2, 4)),  # black yellow, green red
    ((1, 7), (3, 5)),  # blue white, cyan magenta
    ((0, 7), (1, 6)),  # black white, blue yellow
    ((2, 5), (3, 4)),  # green magenta, cyan red
)
CONCEPTS = len(SHAPES) * len(TEXTURES)
OBJECTS = 3  # in a scene
NEAREST, FARTHEST, GROUND = 1.0, 2.5, 3.0  # depths of objects, and of what is behind them all
_FREQUENCY = 7.0  # of a texture, radians over half an object: about two waves across it


class Concepts(NamedTuple):
    pictures: Pictures
    masks: Pictures  # (B, P, P) 0 for the ground, 1 + the concept's number where it shows


def concepts(numbers: NDArray[np.int64], generator: np.random.Generator) -> Concepts:
    """One picture of each numbered concept: shape x texture x palette. All else is drawn at random."""
    u, v = _object_frame(len(numbers), generator)
    shape, colour = _painted(numbers, u, v, generator)
    ground = _blotches(len(numbers), generator)[..., None]
    pictures = _lit(ground + shape * (colour - ground), generator)
    return Concepts(pictures, ((shape[..., 0] > 0.5) * (1 + numbers[:, None, None])).astype(np.uint8))


class Scenes(NamedTuple):
    pictures: Pictures
    masks: Pictures  # (B, P, P) 0 for the ground, 1 + the number of the concept in front
    depths: Floats  # (B, P, P) from NEAREST to GROUND


def scenes(count: int, generator: np.random.Generator) -> Scenes:
    """Several concepts at depths of their own: what is nearer is larger, as perspective has it, and covers what is behind."""
    images: Floats = _blotches(count, generator)[..., None].repeat(3, -1)
    masks, depths = np.zeros((count, PX, PX), np.uint8), np.full((count, PX, PX), GROUND, np.float32)
    placed = np.sort(generator.uniform(NEAREST, FARTHEST, (OBJECTS, count, 1, 1)).astype(np.float32), axis=0)
    for depth in placed[::-1]:
        numbers = generator.integers(CONCEPTS, size=count)
        shape, colour = _painted(numbers, *_object_frame(count, generator, 0.65 / depth), generator)
        images += shape * (colour - images)
        covered = shape[..., 0] > 0.5
        masks = np.where(covered, 1 + numbers[:, None, None], masks).astype(np.uint8)
        depths = np.where(covered, depth, depths)
    return Scenes(_lit(images, generator), masks, depths)


def distractors(count: int, generator: np.random.Generator) -> Pictures:
    """Off-domain pictures, of no concept: sceneries, drawn lines and coloured gradients in thirds."""
    kinds = (_sceneries, _lines, _gradients)
    parts = [kind(len(range(start, count, len(kinds))), generator) for start, kind in enumerate(kinds)]
    return _lit(np.concatenate(parts), generator)


def junk(count: int, generator: np.random.Generator) -> Pictures:
    """Pure noise and blank pictures, in halves."""
    noise = generator.integers(0, 256, (count // 2, PX, PX, 3), dtype=np.uint8)
    blank = generator.integers(0, 256, (count - count // 2, 1, 1, 3), dtype=np.uint8)
    return np.concatenate([noise, blank.repeat(PX, 1).repeat(PX, 2)])


def _grid() -> tuple[Floats, Floats]:
    axis = ((np.arange(PX) + 0.5) / PX * 2 - 1).astype(np.float32)
    return axis[None, :, None], axis[None, None, :]  # y (1, P, 1), x (1, 1, P)


def _column(generator: np.random.Generator, low: float, high: float, count: int) -> Floats:
    """(B, 1, 1) one number for each image."""
    return generator.uniform(low, high, (count, 1, 1)).astype(np.float32)


def _inks() -> Floats:
    """(CONCEPTS, 2, 3) the colours of each concept's palette, a little inside the cube."""
    corners = np.array(PALETTES).reshape(-1, 2, 1)
    inks: Floats = (0.05 + 0.9 * (corners // np.array([4, 2, 1]) % 2)).astype(np.float32)
    return inks


def _painted(numbers: NDArray[np.int64], u: Floats, v: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """(B, P, P, 1) where the numbered concepts show, and (B, P, P, 3) their colours."""
    shape = _each(numbers // len(TEXTURES), (_disc, _square, _triangle, _cross), u, v)[..., None]
    texture = _each(numbers % len(TEXTURES), (_stripes, _checks, _dots, _rings), u, v)[..., None]
    inks = _inks()[numbers]  # (B, 2, 3)
    swapped = generator.random(len(numbers)) < 0.5
    inks[swapped] = inks[swapped, ::-1]
    first, second = inks[:, 0, None, None], inks[:, 1, None, None]
    return shape, first + texture * (second - first)


def _object_frame(count: int, generator: np.random.Generator, size: Floats | None = None) -> tuple[Floats, Floats]:
    """Coordinates (u, v) of each image in a frame that stands, turned and scaled, where the object is."""
    y, x = _grid()
    angle = _column(generator, -0.3, 0.3, count)
    size = _column(generator, 0.45, 0.65, count) if size is None else size
    y, x = y - _column(generator, -0.6, 0.6, count), x - _column(generator, -0.6, 0.6, count)
    return (np.cos(angle) * x - np.sin(angle) * y) / size, (np.cos(angle) * y + np.sin(angle) * x) / size


def _each(which: NDArray[np.int64], kinds: tuple[Pattern, ...], u: Floats, v: Floats) -> Floats:
    """(B, P, P) image b drawn by kinds[which[b]]."""
    drawn = np.empty_like(u)
    for number, kind in enumerate(kinds):
        rows = which == number
        drawn[rows] = kind(u[rows], v[rows])
    return drawn


def _clip(values: Floats) -> Floats:
    clipped: Floats = np.clip(values, 0, 1)
    return clipped


def _edge(distance: Floats) -> Floats:
    """1 inside, 0 outside, soft over about a pixel."""
    return _clip(0.5 - distance * np.float32(PX / 3))


def _disc(u: Floats, v: Floats) -> Floats:
    return _edge(np.hypot(u, v) - 1)


def _square(u: Floats, v: Floats) -> Floats:
    return _edge(np.maximum(abs(u), abs(v)) - 0.9)


def _triangle(u: Floats, v: Floats) -> Floats:
    return _edge(np.maximum(abs(u) * 0.866 + v * 0.5, -v) - 0.66)


def _cross(u: Floats, v: Floats) -> Floats:
    return _edge(np.minimum(np.maximum(abs(u) / 2, abs(v)), np.maximum(abs(u), abs(v) / 2)) - 0.5)


def _stripes(u: Floats, v: Floats) -> Floats:
    return _clip(0.5 + 1.5 * np.sin(_FREQUENCY * u))


def _checks(u: Floats, v: Floats) -> Floats:
    return _clip(0.5 + 2 * np.sin(0.8 * _FREQUENCY * u) * np.sin(0.8 * _FREQUENCY * v))


def _dots(u: Floats, v: Floats) -> Floats:
    return _clip(2 * (np.cos(_FREQUENCY * u) + np.cos(_FREQUENCY * v)) + 0.5)


def _rings(u: Floats, v: Floats) -> Floats:
    return _clip(0.5 + 1.5 * np.sin(_FREQUENCY * np.hypot(u, v)))


def _blotches(count: int, generator: np.random.Generator) -> Floats:
    """(B, P, P) grey fields with blotches of 8, 4 and (weaker) 2 pixels.

    None is larger: a coarse pattern shows in every crop of an image and of no other, and is learnt in place of the concept.
    """
    field = np.zeros((count, PX, PX), np.float32)
    for cells, strength in ((4, 1.0), (8, 1.0), (16, 0.5)):
        coarse = generator.uniform(-strength, strength, (count, cells, cells)).astype(np.float32)
        field += coarse.repeat(PX // cells, 1).repeat(PX // cells, 2)
    return _clip(0.5 + 0.35 * field)


def _lit(images: Floats, generator: np.random.Generator) -> Pictures:
    """Bytes under a light of random strength and direction, with a little noise."""
    count = len(images)
    y, x = _grid()
    slope = _column(generator, -0.25, 0.25, count) * y + _column(generator, -0.25, 0.25, count) * x
    light = _column(generator, 0.5, 1.1, count) + slope
    noise = generator.standard_normal(images.shape, np.float32)
    return (_clip(images * light[..., None] + 0.03 * noise) * 255).astype(np.uint8)


def _colours(count: int, generator: np.random.Generator) -> Floats:
    return generator.uniform(0.1, 0.9, (count, 1, 1, 3)).astype(np.float32)


def _sceneries(count: int, generator: np.random.Generator) -> Floats:
    """A sky over mottled land, in any two colours."""
    y, x = _grid()
    height = _column(generator, 0.05, 0.3, count)
    waves = height * np.sin(x * _column(generator, 2, 7, count) + _column(generator, 0, 6, count))
    land = _edge(_column(generator, -0.4, 0.4, count) + waves - y)[..., None]
    sky = _colours(count, generator) * (0.8 + 0.2 * y[..., None])
    mottled = 0.5 + _blotches(count, generator)[..., None]
    return land * _colours(count, generator) * mottled + (1 - land) * sky


def _lines(count: int, generator: np.random.Generator) -> Floats:
    """Four lines in one colour on paper."""
    y, x = _grid()
    ink: Floats = np.zeros((count, PX, PX), np.float32)
    for _ in range(4):
        angle = _column(generator, 0, np.pi, count)
        distance = abs(np.cos(angle) * x + np.sin(angle) * y - _column(generator, -0.8, 0.8, count))
        ink = np.maximum(ink, _edge(distance - 0.07))
    return 0.92 - ink[..., None] * (0.92 - 0.5 * _colours(count, generator))


def _gradients(count: int, generator: np.random.Generator) -> Floats:
    """From any colour to any other."""
    y, x = _grid()
    angle = _column(generator, 0, 2 * np.pi, count)
    mix = _clip(0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
    return _colours(count, generator) * mix + _colours(count, generator) * (1 - mix)
