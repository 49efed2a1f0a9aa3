"""Retrieval by density: the pool images whose neighbourhood holds more queries than pool images.

N rows of the pool, Q queries, R reference rows, D dimensions, k neighbours

The nearest of a query are often images that are near to everything (blank ones, blurred ones: hubs), and a cosine says
nothing of how many other pool images lie as near. A share does: with as many reference images, drawn from the pool, as
queries, it estimates q / (q + p) of the two densities at an image, whatever the scale of the features is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dinov2lab.curation.index import Search, open_index
from dinov2lab.curation.neighbours import DEFAULT, ranked
from dinov2lab.curation.vectors import BLOCK, DIGITS, Ints, Scores, Vectors, blocks

WEIGHED = 1024  # rows
FLOOR = 0.01  # of the largest variance, added to each: directions of noise are not blown up


class Shares(NamedTuple):
    query: Ints  # (N,) the query closest to each row
    share: Scores  # (N,) how much of its k neighbours are queries, 0 to 1
    cosine: Scores  # (N,) with the closest query

    def order(self) -> Ints:
        """The rows, the greatest share first, then the closest to a query."""
        rows: Ints = np.lexsort((np.arange(len(self.share)), -self.cosine, -self.share))
        return rows


def shares(pool: Vectors, queries: Vectors, reference: Ints, k: int, search: Search = DEFAULT) -> Shares:
    """Of each pool row the share of queries among its k nearest of queries and reference rows, itself not counted."""
    if not len(queries):
        raise ValueError("retrieval has no readable query image to start from")
    by_query, by_other = (
        open_index(rows, search, search.chosen(len(rows), len(pool), rows.shape[1]))
        for rows in (np.ascontiguousarray(queries[:]), np.ascontiguousarray(pool[reference]))
    )
    near, far = min(k, len(queries)), min(k + 1, len(reference))
    query, share, cosine = np.empty(len(pool), np.int64), np.empty(len(pool)), np.empty(len(pool))
    for start in range(0, len(pool), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(pool)))
        asked = np.ascontiguousarray(pool[rows])
        scores, ids = ranked(by_query, asked, near)  # (B, near)
        other_scores, other_ids = ranked(by_other, asked, far)
        other_scores[reference[other_ids] == rows[:, None]] = -np.inf
        query[rows], cosine[rows] = ids[:, 0], scores[:, 0]
        share[rows] = _share(scores, other_scores, k)
    return Shares(query, share, cosine)


def densities(pool: Vectors, queries: Sequence[Vectors], reference: Ints, width: float) -> Shares:
    """Of each pool row q / (q + p): the mean weight, exp((cosine - 1) / width), of all queries, and of all reference rows.

    `queries` are the queries and, where they count, their mirror images; a row is no reference of itself.
    """
    if not len(queries[0]):
        raise ValueError("retrieval has no readable query image to start from")
    asked = [np.asarray(each[:], np.float64) for each in queries]
    others = np.asarray(pool[reference], np.float64)
    query, share, cosine = np.empty(len(pool), np.int64), np.empty(len(pool)), np.empty(len(pool))
    for part, rows in blocks(pool, WEIGHED):
        exact = rows.astype(np.float64)  # threads then change no digit that counts
        scores = exact @ asked[0].T
        query[part], cosine[part] = scores.argmax(1), np.round(scores.max(1), DIGITS)
        near = np.mean([_weights(scores, width), *(_weights(exact @ each.T, width) for each in asked[1:])], axis=0)
        far = exact @ others.T
        far[np.arange(part.start, part.stop)[:, None] == reference] = -np.inf
        share[part] = np.round(near / np.maximum(near + _weights(far, width), 1e-300), DIGITS)
    return Shares(query, share, cosine)


def _weights(cosines: Scores, width: float) -> Scores:
    """(B,) the mean weight of each row; no underflow but where nothing is near."""
    mean: Scores = np.exp((cosines - 1) / width).mean(1)
    return mean


def _share(scores: Scores, other_scores: Scores, k: int) -> Scores:
    """(B,) of two lists, how much of the k greatest of both is of the first; at a tie the second comes first."""
    both = np.concatenate([other_scores, scores], axis=1)
    first = np.argsort(-both, axis=1, kind="stable")[:, :k]
    counted = np.isfinite(np.take_along_axis(both, first, 1))
    found: Scores = ((first >= other_scores.shape[1]) & counted).sum(1) / counted.sum(1)
    return found


@dataclass(frozen=True)
class Whitened:
    """Row n is (array[n] - mean) @ basis, of unit length: computed where it is asked for, never kept."""

    array: Vectors
    mean: Scores  # (D,)
    basis: Scores  # (D, D)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.array), self.basis.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> Any:
        moved = (
            np.asarray(self.array[rows]) - self.mean
        ) @ self.basis  # in float64: threads then change no bit of the rest
        length = np.sqrt(np.einsum("...d,...d->...", moved, moved))
        return (moved / np.maximum(length, 1e-12)[..., None]).astype(np.float32)


def whitened(pool: Vectors, others: Vectors, power: float) -> tuple[Whitened, Whitened]:
    """Both by the pool's statistics: its mean removed, each principal direction divided by its deviation to `power`."""
    size, width = pool.shape
    total, squares = np.zeros(width), np.zeros((width, width))
    for _, rows in blocks(pool):
        exact = rows.astype(np.float64)
        total += exact.sum(0)
        squares += exact.T @ exact
    mean = total / size
    values, directions = np.linalg.eigh(squares / size - np.outer(mean, mean))
    scale = (np.maximum(values, 0) + FLOOR * values.max() + 1e-12) ** (-power / 2)
    return Whitened(pool, mean, directions * scale), Whitened(others, mean, directions * scale)
