"""Spherical k-means, and centres that are searched group by group.

    N vectors of unit length, D dimensions, K centres of unit length, G groups of centres, about the root of K

The same vectors give the same centres and labels on any number of threads and for any blocks: what float32 leaves open is
decided in float64, rounded, where the first of equal centres counts, and centres are sums of whole numbers (of 2**-24),
which come out alike in any order. Beyond FLAT centres, a vector meets the centres of its nearest groups alone.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dinov2lab.curation.vectors import DIGITS, Floats, Ints, Scores, Vectors, blocks, cosine
from dinov2lab.draws import Key, permutation

FLAT = 1024  # centres
GROUPS = 6  # of nearest groups, whose centres a vector meets
SAMPLE = 64  # vectors for each centre that the centres are found from
ITERATIONS = 10
GRAIN = 2.0**24
ASKED = 8192  # vectors whose similarities to centres are held at a time
EXACTLY = 1024  # of them, in float64
OPEN = 1e-4  # cosines of float32 that are closer than this may stand in the other order
FEW = 8  # where more than one in so many centres are asked for, all are met
NAMES = 2**32
NOBODY = NAMES - 1


def tensor(rows: Floats) -> torch.Tensor:
    return torch.from_numpy(np.require(rows, requirements=["C", "W"]))  # copies what is mapped from a file


class Centres:
    """K centres, and what is nearest to them."""

    def __init__(self, centres: Floats) -> None:
        self.centres = centres
        self._all = _Flat(tensor(centres))
        self._groups = _Grouped(centres) if len(centres) > FLAT else None

    def __len__(self) -> int:
        return len(self.centres)

    def nearest(self, vectors: Floats, count: int = 1) -> Ints:
        """(N, count) the nearest centres, the first among equals, in the order of their names."""
        asked = tensor(vectors)
        met = self._groups if self._groups and FEW * count <= len(self) else self._all
        near, sure = met.nearest(asked, count)
        unsure = np.flatnonzero(~sure)
        for part in np.array_split(unsure, -(-len(unsure) // EXACTLY) or 1):
            near[part] = met.exactly(asked[part].double(), count)
        return np.sort(near, axis=1)

    def labels(self, vectors: Vectors) -> Ints:
        """(N,) the nearest centre of each vector."""
        label = np.empty(len(vectors), np.int64)
        for part, rows in blocks(vectors, ASKED):
            label[part] = self.nearest(rows)[:, 0]
        return label

    def scored(self, vectors: Vectors) -> tuple[Ints, Scores]:
        """(N,) the nearest centre of each vector, and (N,) their cosine."""
        label, score = np.empty(len(vectors), np.int64), np.empty(len(vectors))
        for part, rows in blocks(vectors, ASKED):
            label[part] = self.nearest(rows)[:, 0]
            score[part] = cosine(rows, np.arange(len(rows)), self.centres, label[part])
        return label, score


class _Flat:
    """Centres that are all met."""

    def __init__(self, table: torch.Tensor) -> None:
        self._table = table  # (K, D)

    def nearest(self, asked: torch.Tensor, count: int) -> tuple[Ints, NDArray[np.bool_]]:
        """(N, count) the nearest in float32, and (N,) whether float64 would find no others."""
        scores, names = _top(asked @ self._table.T, count)
        return names[:, :count].numpy(), _apart(scores, count)

    def exactly(self, asked: torch.Tensor, count: int) -> Ints:
        """(N, count) for vectors in float64."""
        return _best(asked @ self._table.double().T, None, count)


class _Grouped:
    """Centres in groups, of which the nearest are met."""

    def __init__(self, centres: Floats) -> None:
        heads = kmeans(centres, int(np.ceil(len(centres) ** 0.5)), "groups of centres")
        label = Centres(heads).labels(centres)
        self._heads, self._met = _Flat(torch.from_numpy(heads)), min(GROUPS, len(heads))
        self._members = [torch.from_numpy(np.flatnonzero(label == group)) for group in range(len(heads))]
        self._tables = [torch.from_numpy(centres[own.numpy()]) for own in self._members]

    def nearest(self, asked: torch.Tensor, count: int) -> tuple[Ints, NDArray[np.bool_]]:
        near, sure = self._heads.nearest(asked, self._met)
        scores = torch.full((len(asked), self._met, count + 1), -2.0)
        names = torch.full(scores.shape, NOBODY)
        for group, row, slot in self._visited(near):
            found, place = _top(asked[row] @ self._tables[group].T, count)
            scores[row, slot, : found.shape[1]] = found
            names[row, slot, : found.shape[1]] = self._members[group][place]
        best, place = _top(scores.flatten(1), count)
        return names.flatten(1).gather(1, place)[:, :count].numpy(), sure & _apart(best, count)

    def exactly(self, asked: torch.Tensor, count: int) -> Ints:
        near = self._heads.exactly(asked, self._met)
        widest = max(map(len, self._members))
        found = torch.full((len(asked), self._met, max(widest, count)), -2.0, dtype=torch.float64)
        names = torch.full(found.shape, NOBODY)
        for group, row, slot in self._visited(near):
            own = self._members[group]
            found[row, slot, : len(own)] = asked[row] @ self._tables[group].double().T
            names[row, slot, : len(own)] = own
        return _best(found.flatten(1), names.flatten(1), count)

    def _visited(self, near: Ints) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Each group that is among the (N, GROUPS) nearest of some, those (V,), and (V,) in which place."""
        order = np.argsort(near, axis=None, kind="stable")
        bounds = np.searchsorted(near.ravel()[order], np.arange(len(self._members) + 1))
        for group in np.flatnonzero(np.diff(bounds)).tolist():
            row, slot = np.divmod(order[bounds[group] : bounds[group + 1]], near.shape[1])
            yield group, torch.from_numpy(row), torch.from_numpy(slot)


def _top(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, count + 1) greatest scores of (N, M), falling, and their places; fewer where there are no more."""
    best = scores.topk(min(count + 1, scores.shape[1]), dim=1)
    return best.values, best.indices


def _apart(scores: torch.Tensor, count: int) -> NDArray[np.bool_]:
    """(N,) whether the first `count` of falling scores are so far above the next that rounding cannot matter."""
    if scores.shape[1] <= count:
        return np.ones(len(scores), bool)
    apart: NDArray[np.bool_] = (scores[:, count - 1] - scores[:, count] > OPEN).numpy()
    return apart


def _best(scores: torch.Tensor, names: torch.Tensor | None, count: int) -> Ints:
    """(N, count) names, the best of each row of (N, M) scores, rounded, the smallest name among equals."""
    if names is None:
        names = torch.arange(scores.shape[1])
    both = torch.round(scores * 10**DIGITS).long() * NAMES - names  # one whole number that sorts by score, then name
    best: Ints = (-both.topk(count, dim=1).values % NAMES).numpy()
    return best


def kmeans(vectors: Vectors, count: int, purpose: str, iterations: int = ITERATIONS, sample: int = SAMPLE) -> Floats:
    """(K, D) centres, K at most `count`: no more than there are vectors.

    They start at vectors drawn at random, and are found from `sample` vectors a centre. One that loses all its vectors stays
    where it is. Many are found in two steps: some, and then those of each of these clusters.
    """
    count = min(count, len(vectors))
    order = permutation(Key(0), f"k-means/{purpose}", len(vectors))
    some = np.sort(order[: sample * count])
    if count > FLAT:
        return _in_two_steps(np.asarray(vectors[some]), count, purpose, iterations, sample)
    rows = np.asarray(vectors[some])
    centres = _unit(np.asarray(vectors[np.sort(order[:count])], np.float64))
    for _ in range(iterations):
        label = Centres(centres).labels(rows)
        moved = means(rows, label, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _in_two_steps(vectors: Floats, count: int, purpose: str, iterations: int, sample: int) -> Floats:
    heads = kmeans(vectors, int(np.ceil(count**0.5)), purpose, iterations, sample)
    label = Centres(heads).labels(vectors)
    sizes = np.bincount(label, minlength=len(heads))
    shares = apportion(sizes, count)
    parts = [
        kmeans(vectors[label == group], share, f"{purpose}/{group}", iterations, sample)
        for group, share in enumerate(shares.tolist())
        if share
    ]
    return np.concatenate(parts)


def apportion(sizes: Ints, count: int) -> Ints:
    """(G,) whole shares of `count`, as `sizes` are to each other, by the largest remainders, and none above its size."""
    exact = sizes * (count / max(1, sizes.sum()))
    shares: Ints = np.minimum(np.floor(exact).astype(np.int64), sizes)
    for group in np.lexsort((np.arange(len(sizes)), -(exact - shares))):
        if shares.sum() >= min(count, sizes.sum()):
            break
        shares[group] += shares[group] < sizes[group]
    return shares


def means(vectors: Vectors, label: Ints, before: Floats) -> Floats:
    """(K, D) the directions of the clusters' sums; of a cluster without vectors, where its centre was `before`."""
    total = np.zeros(before.shape, np.int64)
    for part, rows in blocks(vectors):
        own = label[part]
        members = csr_array((np.ones(len(own), np.int64), (own, np.arange(len(own)))), shape=(len(before), len(own)))
        total += members @ np.rint(rows * GRAIN).astype(np.int64)
    empty = np.flatnonzero(~np.asarray(total.any(1)))
    centres = _unit(total.astype(np.float64))
    centres[empty] = before[empty]
    return centres


def _unit(rows: NDArray[np.float64]) -> Floats:
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    unit: Floats = (rows / np.maximum(length, 1e-30)[:, None]).astype(np.float32)
    return unit
