"""Spherical k-means, and centres that are searched group by group.

    N vectors of unit length, D dimensions, K centres of unit length, G groups of centres, about the root of K

The same vectors give the same centres and labels on any number of threads and for any blocks: similarities are taken in
float64 and rounded, the first of equal centres counts, and centres are sums of whole numbers (of 2**-24), which come out
alike in any order. Beyond FLAT centres, a vector meets the centres of its nearest groups alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dinov2lab.curation.vectors import DIGITS, Floats, Ints, Scores, Vectors, blocks
from dinov2lab.draws import Key, permutation

FLAT = 1024  # centres
GROUPS = 6  # of nearest groups, whose centres a vector meets
SAMPLE = 64  # vectors for each centre that the centres are found from
ITERATIONS = 10
GRAIN = 2.0**24
ASKED = 2048  # vectors whose similarities to all centres are held at a time
NAMES = 2**32


class Centres:
    """K centres, and what is nearest to them."""

    def __init__(self, centres: Floats) -> None:
        self.centres = centres
        self._table = torch.from_numpy(np.ascontiguousarray(centres)).double()
        self._groups = _grouped(centres) if len(centres) > FLAT else None

    def __len__(self) -> int:
        return len(self.centres)

    def nearest(self, vectors: Floats, count: int = 1) -> tuple[Ints, Scores]:
        """(N, count) centres by falling cosine, the first among equals, and (N, count) cosines."""
        asked = torch.from_numpy(vectors.astype(np.float64))
        if self._groups is None:
            return _best(asked @ self._table.T, None, count)
        heads, members = self._groups
        near = _best(asked @ heads.T, None, min(GROUPS, len(heads)))[0]  # (N, GROUPS)
        widest = max(map(len, members))
        found = torch.full((len(asked), near.shape[1], widest), -2.0, dtype=torch.float64)
        names = torch.full((len(asked), near.shape[1], widest), len(self))
        for group, own in enumerate(members):
            row, slot = map(torch.from_numpy, np.nonzero(near == group))
            found[row, slot, : len(own)] = asked[row] @ self._table[own].T
            names[row, slot, : len(own)] = own
        return _best(found.flatten(1), names.flatten(1), count)

    def labels(self, vectors: Vectors) -> tuple[Ints, Scores]:
        """(N,) the nearest centre of each vector, and (N,) their cosine."""
        label, score = np.empty(len(vectors), np.int64), np.empty(len(vectors))
        for part, rows in blocks(vectors, ASKED):
            near, cosine = self.nearest(rows)
            label[part], score[part] = near[:, 0], cosine[:, 0]
        return label, score


def _best(scores: torch.Tensor, names: torch.Tensor | None, count: int) -> tuple[Ints, Scores]:
    """(N, count) names and rounded scores, the best of each row of (N, M) scores, the smallest name among equals."""
    if names is None:
        names = torch.arange(scores.shape[1])
    both = torch.round(scores * 10**DIGITS).long() * NAMES - names  # one whole number that sorts by score, then name
    best = both.topk(count, dim=1).values
    name = -best % NAMES
    return name.numpy(), ((best + name) // NAMES).double().div(10**DIGITS).numpy()


def _grouped(centres: Floats) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Heads (G, D) of groups, in float64, and the centres of each."""
    heads = kmeans(centres, int(np.ceil(len(centres) ** 0.5)), "groups of centres")
    label, _ = Centres(heads).labels(centres)
    members = [torch.from_numpy(np.flatnonzero(label == group)) for group in range(len(heads))]
    return torch.from_numpy(heads).double(), members


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
        label, _ = Centres(centres).labels(rows)
        moved = means(rows, label, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _in_two_steps(vectors: Floats, count: int, purpose: str, iterations: int, sample: int) -> Floats:
    heads = kmeans(vectors, int(np.ceil(count**0.5)), purpose, iterations, sample)
    label, _ = Centres(heads).labels(vectors)
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
