"""Sources: a URI to rows of (path, bytes, label), and bytes to pixels by one stated rule.

    toyweb:PART       the embedded default data, drawn once into the cache (data/toyweb.py)
    folder:PATH       an image folder; the first folder level names the class, where every image has one
    parquet:PATH      one file or a glob; columns path, image (bytes), optional label (an integer)

Relative paths are resolved against the data root, which is not part of a run's identity.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Unreadable(ValueError):
    """Bytes that are no image. `reason` is one of a few words that are counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Source(Protocol):
    """Rows of images in a fixed order."""

    uri: str
    paths: tuple[str, ...]  # unique, relative names
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """The encoded image of one row. Raises Unreadable where the file is gone or cannot be opened."""
        ...

    def fingerprint(self) -> str:
        """Names, sizes and times of the files (or the Parquet footer), hashed: cheap, reads no image."""
        ...


@dataclass(frozen=True)
class Roots:
    """Where relative URIs start, and where the embedded data is drawn to."""

    data: Path
    cache: Path


def open_source(uri: str, roots: Roots) -> Source:
    """Raises ValueError, in one clear line, for an unknown scheme, a missing folder or file, or missing columns."""
    raise NotImplementedError


def decode(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) RGB pixels. Raises Unreadable."""
    raise NotImplementedError
