"""The two questions that curation asks of an index: what is within a threshold, and what is nearest.

    Q queries, N vectors, D dimensions, all float32 and of unit length; k neighbours; P pairs

Every score that is compared or stored is taken in float64 and rounded (vectors.cosine); what an index cuts off within
MARGIN of a decision is looked at again. The rows that come out are the same on any device, any number of threads and any
exact index; what an index that is not exact misses is measured on a sample of the queries, and said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab.curation.index import Index, Kind, Search, open_index
from dinov2lab.curation.vectors import Chosen, Floats, Ints, Scores, Vectors, blocks, cosine, rough

MARGIN = 1e-3  # more than float32 (and TF32, on CUDA) can be wrong about a cosine
BOUND_DIMENSIONS = 64
WORTHWHILE = 2048  # vectors: with fewer, finding the directions takes longer than the search
BASIS_ROWS = 8192  # vectors that the principal directions are taken from
SAMPLED = 1024  # queries that recall is measured on
WANTED = 0.99  # recall for which an index looks into more lists, up to MOST_PROBES
MOST_PROBES = 128
IDENTICAL = 1 - 1e-6  # any index finds the vector itself: that is no recall
ROUNDING = 1e-5  # of float32 sums in another order
DEFAULT = Search()


class Recall(NamedTuple):
    """Of an index that is not exact, against exact search."""

    kind: Kind
    probes: int
    found: int
    of: int  # neighbours of the sampled queries, vectors identical to them left out

    @classmethod
    def of_all(cls, parts: Sequence["Recall"]) -> "Recall | None":
        if not parts:
            return None
        probes = max(part.probes for part in parts)
        return cls(parts[0].kind, probes, sum(part.found for part in parts), sum(part.of for part in parts))

    def record(self) -> dict[str, float | int | str]:
        share = {"recall": round(self.found / self.of, 4)} if self.of else {}
        return {"index": self.kind, "probes": self.probes, **share, "measured_on": self.of}


class Hits(NamedTuple):
    query: Ints  # (P,)
    id: Ints  # (P,)
    score: Scores  # (P,)
    saturated: int  # queries with k vectors or more
    recall: Recall | None  # of an exact index, none


def above(
    vectors: Vectors, queries: Vectors, threshold: float, k: int, search: Search = DEFAULT, of: Ints | None = None
) -> Hits:
    """All vectors within `threshold` of each query; those with `k` or more are counted, and none is cut short.

    With `of`, of these queries alone: their hits are the same as among those of all.

    What an exact index searches is an upper bound of the cosine, in fewer dimensions. A query that is itself among the
    vectors finds itself, at no place in particular.
    """
    none = np.empty(0, np.int64)
    if not len(vectors) or not len(queries):
        return Hits(none, none, np.empty(0), 0, None)
    kind = search.chosen(len(vectors), len(queries), vectors.shape[1])
    basis = _basis(vectors) if kind == "exact" else None
    bounded = [rows if basis is None else Bounded(rows, basis) for rows in (vectors, queries)]
    index = open_index(bounded[0], search, kind)
    recall = None if kind in ("exact", "faiss_flat") else _within_widened(index, kind, queries, threshold)
    found: list[tuple[Ints, Ints, Scores]] = [(none, none, np.empty(0))]
    for row, id_ in index.within(bounded[1] if of is None else Chosen(bounded[1], of), threshold - MARGIN):
        query = row if of is None else of[row]
        if basis is not None:  # spares most of the float64
            near = rough(queries, query, vectors, id_) >= threshold - MARGIN
            query, id_ = query[near], id_[near]
        score = cosine(queries, query, vectors, id_)
        passed = score >= threshold
        found.append((query[passed], id_[passed], score[passed]))
    query, id_, score = (np.concatenate([each[field] for each in found]) for field in range(3))
    return Hits(query, id_, score, int((np.bincount(query) >= k).sum()), recall)


def _basis(vectors: Vectors) -> Floats | None:
    """(D, B) principal directions of the vectors; none where they would not pay."""
    if vectors.shape[1] <= 2 * BOUND_DIMENSIONS or len(vectors) < WORTHWHILE:
        return None
    some = np.asarray(vectors[:: max(1, len(vectors) // BASIS_ROWS)], np.float64)
    basis: Floats = np.linalg.eigh(some.T @ some)[1][:, -BOUND_DIMENSIONS:].astype(np.float32)
    return basis


@dataclass(frozen=True)
class Bounded:
    """(N, B + 1) whose inner products are no less than those of the (N, D) of `array`; computed where they are asked for.

    The first B coordinates are those along the basis; the last is the length of what is left, and two remainders agree at
    most as far as their lengths allow (Cauchy-Schwarz). Any orthonormal basis is right, a good one proposes few in vain.
    """

    array: Vectors
    basis: Floats  # (D, B)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.array), self.basis.shape[1] + 1

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> Floats:
        asked = self.array[rows]
        along = asked @ self.basis
        squares = np.einsum("nd,nd->n", asked, asked) - np.einsum("nb,nb->n", along, along)
        return np.concatenate([along, np.sqrt(np.maximum(squares, 0))[:, None]], axis=1)


def _sampled(queries: Vectors) -> Floats:
    return np.ascontiguousarray(queries[:: max(1, len(queries) // SAMPLED)])


def _within_widened(index: Index, kind: Kind, queries: Vectors, threshold: float) -> Recall:
    """The recall of `index` on a sample, after it looks into as many lists as WANTED needs."""
    asked = _sampled(queries)
    truth = np.concatenate([
        query * len(index.vectors) + part.start + row
        for part, rows in blocks(index.vectors)
        for query, row in [np.nonzero(_between(asked @ rows.T, threshold))]
    ])  # fmt: skip
    while True:
        pairs = [query * len(index.vectors) + id_ for query, id_ in index.within(asked, threshold - MARGIN)]
        found = int(np.isin(truth, np.concatenate(pairs)).sum())
        if found >= WANTED * len(truth) or index.probes >= MOST_PROBES:
            return Recall(kind, index.probes, found, len(truth))
        index.probes = 2 * index.probes


def _between(scores: Floats, threshold: float) -> NDArray[np.bool_]:
    """Near copies, and not the vector itself."""
    near: NDArray[np.bool_] = (scores >= threshold) & (scores < IDENTICAL)
    return near


def ranked(index: Index, queries: Vectors, k: int) -> tuple[Scores, Ints]:
    """(Q, k) scores and ids of the k nearest, by falling score, ties by id. k is at most N."""
    size = len(index.vectors)
    scores, ids = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    pending, longer = np.arange(len(queries)), min(2 * k, size)
    while len(pending):
        last, near = index.nearest(np.ascontiguousarray(queries[pending]), longer)
        exact = np.full(near.shape, -np.inf)
        real = near >= 0  # an index that is not exact may have found fewer
        exact[real] = cosine(queries, pending[np.nonzero(real)[0]], index.vectors, near[real])
        order = np.lexsort((near, -exact), axis=1)[:, :k]
        scores[pending] = np.take_along_axis(exact, order, 1)
        ids[pending] = np.take_along_axis(near, order, 1)
        # what lies beyond the list could only matter where the k-th is as good as the list's end
        unsure = (scores[pending, -1] <= last[:, -1] + MARGIN) & (longer < size)
        pending, longer = pending[unsure], min(2 * longer, size)
    return scores, ids


def open_for(vectors: Vectors, queries: Vectors, search: Search = DEFAULT) -> tuple[Index, Kind]:
    """An index for `ranked`, and its kind."""
    kind = search.chosen(len(vectors), len(queries), vectors.shape[1])
    return open_index(vectors, search, kind), kind


def widened(index: Index, kind: Kind, queries: Vectors, k: int) -> Recall | None:
    """The share of the k nearest that `index` finds, on a sample, after it looks into as many lists as WANTED needs."""
    if kind in ("exact", "faiss_flat"):
        return None
    asked = _sampled(queries)[: SAMPLED // 4]
    floor = _kth_scores(index.vectors, asked, k)
    while True:
        scores, ids = index.nearest(asked, k)
        found = int(((scores >= floor[:, None] - ROUNDING) & (ids >= 0)).sum())
        if found >= WANTED * len(asked) * k or index.probes >= MOST_PROBES:
            return Recall(kind, index.probes, found, len(asked) * k)
        index.probes = 2 * index.probes


def _kth_scores(vectors: Vectors, queries: Floats, k: int) -> Floats:
    """(Q,) the score of each query's k-th neighbour, by a pass over all vectors."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for _, rows in blocks(vectors):
        both = np.concatenate([best, queries @ rows.T], axis=1)
        best = -np.partition(-both, k - 1, axis=1)[:, :k]
    floor: Floats = best.min(1)
    return floor
