"""Shifts: what may have happened to test images since the training ones were taken. Their content stays.

B images   P pixels of a side
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pictures = NDArray[np.uint8]  # (B, P, P, 3)


def shifted(pictures: Pictures, shift: str, generator: np.random.Generator) -> Pictures:
    """`shift`: one of SHIFTS."""
    return SHIFTS[shift](pictures, generator)


def _noise(pictures: Pictures, generator: np.random.Generator) -> Pictures:
    """Of a deviation of an eighth of white."""
    return _bytes(pictures + 32 * generator.standard_normal(pictures.shape, np.float32))


def _contrast(pictures: Pictures, generator: np.random.Generator) -> Pictures:
    """A third of it, around the mean of each image."""
    mean = pictures.mean((1, 2, 3), keepdims=True, dtype=np.float32)
    return _bytes(mean + (pictures - mean) / 3)


def _grey(pictures: Pictures, generator: np.random.Generator) -> Pictures:
    return _bytes(pictures.mean(3, keepdims=True, dtype=np.float32).repeat(3, 3))


def _blur(pictures: Pictures, generator: np.random.Generator) -> Pictures:
    """By a fortieth of a side."""
    radius = pictures.shape[1] / 40
    return _each(pictures, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def _pixelate(pictures: Pictures, generator: np.random.Generator) -> Pictures:
    """To half the pixels of a side."""
    half = pictures.shape[1] // 2
    back = Image.Resampling.NEAREST
    return _each(pictures, lambda image: image.resize((half, half), Image.Resampling.BOX).resize(image.size, back))


def _turn(pictures: Pictures, generator: np.random.Generator) -> Pictures:
    """By up to 40 degrees to either side."""
    angles = iter(generator.uniform(-40, 40, len(pictures)))
    return _each(pictures, lambda image: image.rotate(next(angles), Image.Resampling.BILINEAR))


def _each(pictures: Pictures, change: Callable[[Image.Image], Image.Image]) -> Pictures:
    return np.stack([np.asarray(change(Image.fromarray(pixels))) for pixels in pictures])


def _bytes(values: NDArray[np.floating[Any]]) -> Pictures:
    bounded: Pictures = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return bounded


SHIFTS: dict[str, Callable[[Pictures, np.random.Generator], Pictures]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "grey": _grey,
    "pixelate": _pixelate,
    "turn": _turn,
}
