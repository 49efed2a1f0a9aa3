"""An embedding that is trained on some images alone, in seconds: how much of which small pattern is where, and the layout.

    N images, P pixels a side, F filters of S x S pixels, at y times x places, D dimensions

Patches of the training images, whitened, are clustered (Coates and Ng, "Learning Feature Representations with K-Means",
2012); an image is how strongly each centre and its negative answer in each of its quarters. That, and the layout of colours
and edges, are brought half-way to one deviation in each principal direction of the training images; both weigh the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dinov2lab.curation.cluster import kmeans
from dinov2lab.curation.density import FLOOR
from dinov2lab.curation.layout import layout_features
from dinov2lab.draws import Key, permutation
from dinov2lab.spec import embedders
from dinov2lab.store import atomic

PATCHES = 60_000  # that filters are found from
CONTRAST = 10.0  # variance, in grey levels, that fades out what is nearly blank
WHITE = 0.1  # added to the patches' variances
ANSWER = 0.5  # below which a filter does not answer
HALVES = 2  # of the image, in each direction
DIRECTIONS = 256  # principal ones of the answers, that are kept
BLOCK = 256  # images
NAMES = ("mean", "filters", "answers_mean", "answers_basis", "layout_mean", "layout_basis")

Thumbnails = NDArray[np.uint8]  # (N, P, P, 3)
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Filters:
    mean: Matrix  # (S * S * 3,) of patches
    filters: Matrix  # (S * S * 3, F): whitening and centres in one
    answers: tuple[Matrix, Matrix]  # mean (A,) and basis (A, DIRECTIONS) of the training images
    layout: tuple[Matrix, Matrix]
    asked: embedders.Filters

    def features(self, thumbnails: Thumbnails) -> Matrix:
        """(N, D) vectors of unit length."""
        found: list[Matrix] = []
        for start in range(0, len(thumbnails), BLOCK):
            some = thumbnails[start : start + BLOCK]
            both = ((self._answers(some), self.answers), (layout_features(some), self.layout))
            found.append(np.concatenate([_unit((rows - mean) @ basis) for rows, (mean, basis) in both], axis=1))
        return _unit(np.concatenate(found))

    def _answers(self, thumbnails: Thumbnails) -> Matrix:
        """(N, A) roots of the mean answers in each quarter, of each filter and its negative."""
        patches = _patches(thumbnails, self.asked)  # (N, y, x, S * S * 3)
        answer = (patches - self.mean) @ self.filters
        both = np.maximum(np.concatenate([answer, -answer], axis=3) - np.float32(ANSWER), 0)
        parts = [part for rows in np.array_split(both, HALVES, axis=1) for part in np.array_split(rows, HALVES, axis=2)]
        roots: Matrix = np.sqrt(np.concatenate([part.mean((1, 2)) for part in parts], axis=1))
        return roots


def trained(thumbnails: Thumbnails, asked: embedders.Filters) -> Filters:
    """The filters of these images, of `asked.px` pixels a side."""
    order = permutation(Key(0), "filters", len(thumbnails))
    each = ((asked.px - asked.patch) // asked.stride + 1) ** 2
    seen = thumbnails[np.sort(order[: max(1, 2 * PATCHES // each)])]
    some = _patches(seen, asked).reshape(-1, asked.patch * asked.patch * 3)
    some = some[np.sort(permutation(Key(0), "patches", len(some))[:PATCHES])]
    mean = some.mean(0)
    values, directions = np.linalg.eigh(np.cov(some.T.astype(np.float64)))
    white = (directions / np.sqrt(values + WHITE) @ directions.T).astype(np.float32)
    count = asked.filters
    centres = kmeans(_unit((some - mean) @ white), count, "filters", sample=max(1, PATCHES // count))
    half = Filters(mean, white @ centres.T, (mean, mean), (mean, mean), asked)
    answers = np.concatenate([half._answers(thumbnails[n : n + BLOCK]) for n in range(0, len(thumbnails), BLOCK)])
    return Filters(mean, half.filters, _principal(answers), _principal(layout_features(thumbnails)), asked)


def stored(file: Path, draw: Callable[[], Thumbnails], asked: embedders.Filters) -> Filters:
    """The filters in `file`; where it is missing, found first in the images that `draw` gives."""
    if not file.exists():
        with atomic.locked(file.with_name(f"{file.name}.lock")):
            if not file.exists():
                found = trained(draw(), asked)
                arrays = dict(zip(NAMES, (found.mean, found.filters, *found.answers, *found.layout), strict=True))
                atomic.write(file, lambda path: _save(path, arrays))
    with np.load(file) as kept:
        mean, filters, *rest = (kept[name] for name in NAMES)
        return Filters(mean, filters, (rest[0], rest[1]), (rest[2], rest[3]), asked)


def _save(path: Path, arrays: dict[str, Matrix]) -> None:
    with path.open("wb") as stream:  # savez would give a plain name another ending
        np.savez(stream, allow_pickle=False, **arrays)


def _patches(thumbnails: Thumbnails, asked: embedders.Filters) -> Matrix:
    """(N, y, x, S * S * 3) of mean 0 and, but for what is nearly blank, deviation 1."""
    windows = sliding_window_view(thumbnails, (asked.patch, asked.patch), axis=(1, 2))  # (N, y, x, 3, S, S)
    windows = windows[:, :: asked.stride, :: asked.stride]
    patches = windows.reshape(*windows.shape[:3], -1).astype(np.float32)
    patches -= patches.mean(3, keepdims=True)
    patches /= np.sqrt(np.square(patches).mean(3, keepdims=True) + np.float32(CONTRAST))
    return patches


def _principal(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Mean (A,) and the foremost principal directions (A, D), each divided by the root of its deviation."""
    mean = rows.mean(0)
    values, directions = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    scale = (np.maximum(values, 0) + FLOOR * values.max() + 1e-12) ** -0.25
    return mean, (directions * scale)[:, -DIRECTIONS:].astype(np.float32)


def _unit(rows: NDArray[Any]) -> Matrix:
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    unit: Matrix = (rows / np.maximum(length, 1e-12)[:, None]).astype(np.float32)
    return unit
