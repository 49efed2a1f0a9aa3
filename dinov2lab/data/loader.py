"""Batches by position: which image stands at position p of a run is a pure function, so a resume needs no state."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinov2lab.data.decoded import Decoded, decoded
from dinov2lab.data.source import Source, Unreadable, decode
from dinov2lab.data.views import Pixels, normalise
from dinov2lab.draws import Key, permutation
from dinov2lab.spec.identity import content_id

CACHE_BYTES = 2 << 30


class Pictures:
    """Decoded images of chosen rows of a source.

    With a `cache` folder and a name `images` that stands for the content of these rows, they are decoded once for all, when
    the first is asked for; where they do not fit, or without one, they are kept in memory, up to `budget` bytes.
    """

    def __init__(
        self,
        source: Source,
        rows: Sequence[int],
        budget: int = CACHE_BYTES,
        cache: Path | None = None,
        images: str = "",
    ) -> None:
        self._source, self.rows, self.images = source, rows, images
        self._cache, self._budget, self._left = cache, budget, budget
        self._kept: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels(index))

    def some(self, places: Sequence[int]) -> "Pictures":
        """Those at `places`, in that order."""
        images = content_id([self.images, list(places)]) if self.images else ""
        return Pictures(self._source, [self.rows[place] for place in places], images=images)

    def name(self, index: int) -> str:
        return self._source.paths[self.rows[index]]

    @cached_property
    def _stored(self) -> Decoded | None:
        return decoded(self._cache, self.images, len(self.rows), self._read, self._budget) if self._cache else None

    def pixels(self, index: int) -> Pixels:
        """(H, W, 3)"""
        if self._stored:
            return self._stored[index]
        if index in self._kept:
            return self._kept[index]
        pixels = self._read(index)
        if pixels.nbytes <= self._left:
            self._kept[index] = pixels
            self._left -= pixels.nbytes
        return pixels

    def _read(self, index: int) -> Pixels:
        """Curation has read every row once, so that one which cannot be read now has changed since."""
        row = self.rows[index]
        try:
            return decode(self._source.read(row))
        except Unreadable as error:
            name = self._source.paths[row]
            raise ValueError(f"{self._source.uri}: {name} could be read before and is {error.reason} now") from error


class Order:
    """Which of `size` images stands at a position: each pass is a permutation of its own."""

    def __init__(self, size: int, key: Key) -> None:
        self.size, self._key = size, key
        self._passes: dict[int, NDArray[np.int64]] = {}

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        out = np.empty_like(positions)
        for number in np.unique(positions // self.size).tolist():
            here = positions // self.size == number
            out[here] = self._pass(number)[positions[here] % self.size]
        return out

    def _pass(self, number: int) -> NDArray[np.int64]:
        if number not in self._passes:
            if len(self._passes) > 1:
                self._passes.pop(min(self._passes))
            self._passes[number] = permutation(self._key, f"order/{number}", self.size)
        return self._passes[number]


def centred(picture: Image.Image, px: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The shorter side resized to `px`, then the central square: what every evaluation and embedder sees."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return picture.resize((px, px), resampling, box=(left, top, left + side, top + side))


def evaluation_batches(pictures: Pictures, px: int, batch: int = 256) -> Iterator[Tensor]:
    """Normalised central crops (B, 3, px, px), in order."""
    for start in range(0, len(pictures), batch):
        rows = range(start, min(start + batch, len(pictures)))
        yield normalise(as_tensor([centred(pictures[row], px) for row in rows]))


def as_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """(B, 3, H, W) floats in [0, 1] of pictures of one size."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.permute(0, 3, 1, 2).float().div_(255)
