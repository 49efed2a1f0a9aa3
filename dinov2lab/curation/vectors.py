"""Rows of vectors that may lie in a file, taken in blocks and never as a whole; and the one score that decides.

N vectors, D dimensions; P pairs
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Scores = NDArray[np.float64]

DIGITS = 6
BLOCK = 8192  # rows
PAIR_BLOCK = 1024


class Vectors(Protocol):
    """(N, D) float32: an array, an array mapped from a file, or chosen rows of one."""

    @property
    def shape(self) -> tuple[Any, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class Chosen:
    """Row n is `array[rows[n]]`: what is chosen of a file stays in the file."""

    array: Vectors
    rows: Ints

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.array.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Any:
        return self.array[self.rows[rows]]


class Stacked:
    """Several, one below the other."""

    def __init__(self, arrays: Sequence[Vectors]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])

    @property
    def shape(self) -> tuple[Any, ...]:
        return len(self), *self._arrays[0].shape[1:]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: Any) -> Any:
        places = np.arange(len(self))[rows]
        which = np.searchsorted(self._ends, places, side="right")
        out = np.empty((len(places), *self.shape[1:]), np.asarray(self._arrays[0][:0]).dtype)
        for number in np.unique(which).tolist():
            here = which == number
            out[here] = self._arrays[number][places[here] - (self._ends[number] - len(self._arrays[number]))]
        return out


def blocks(vectors: Vectors, size: int = BLOCK) -> Iterator[tuple[slice, Floats]]:
    """(where, the rows there), one after the other."""
    for start in range(0, len(vectors), size):
        part = slice(start, min(start + size, len(vectors)))
        yield part, np.ascontiguousarray(vectors[part])


def cosine(left: Vectors, left_ids: Ints, right: Vectors, right_ids: Ints) -> Scores:
    """(P,) cosines of left[left_ids] with right[right_ids], in float64, rounded: the only scores that decide."""
    scores = np.empty(len(left_ids))
    for start in range(0, len(left_ids), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        a, b = left[left_ids[part]].astype(np.float64), right[right_ids[part]].astype(np.float64)  # (P, D)
        norms = np.sqrt(np.einsum("pd,pd->p", a, a) * np.einsum("pd,pd->p", b, b))
        scores[part] = np.einsum("pd,pd->p", a, b) / norms
    rounded: Scores = np.round(scores, DIGITS)
    return rounded


def rough(left: Vectors, left_ids: Ints, right: Vectors, right_ids: Ints) -> Floats:
    """(P,) cosines in float32, of vectors of unit length."""
    scores = np.empty(len(left_ids), np.float32)
    for start in range(0, len(left_ids), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        scores[part] = np.einsum("pd,pd->p", left[left_ids[part]], right[right_ids[part]])
    return scores
