"""Sources in memory, drawn with Pillow."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.data.source import Unreadable


class MemorySource:
    """Named encoded images. Counts its reads."""

    def __init__(self, uri: str, images: dict[str, bytes | Unreadable]) -> None:
        self.uri = uri
        self.paths = tuple(images)
        self.labels: NDArray[np.int64] | None = None
        self.classes: tuple[str, ...] = ()
        self.reads = 0
        self._images = images

    def read(self, index: int) -> bytes:
        self.reads += 1
        data = self._images[self.paths[index]]
        if isinstance(data, Unreadable):
            raise data
        return data

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self._images).encode()).hexdigest()

    def only(self, paths: Sequence[str]) -> "MemorySource":
        return MemorySource(self.uri, {path: self._images[path] for path in paths})


def picture(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """A smooth random picture: no two seeds look alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)
