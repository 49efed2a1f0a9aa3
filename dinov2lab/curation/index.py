"""Cosine search behind one small interface, and the two questions that curation asks of it.

    Q queries, N vectors, D dimensions, all float32 and of unit length; k neighbours

An index only proposes. Its float32 scores depend on threads, block sizes and devices, so every score that is compared
or stored is taken again in float64 by `cosine` and rounded; what an index cut off within MARGIN of the decision is
looked at again with longer lists. The rows that come out are then the same on any index, device and number of
threads.
"""

from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Scores = NDArray[np.float64]

DIGITS = 6
MARGIN = 1e-3  # more than float32 (and TF32, on CUDA) can be wrong about a cosine
QUERY_BLOCK = 512
PAIR_BLOCK = 1024
BOUND_DIMENSIONS = 64
WORTHWHILE = 2048  # vectors: with fewer, finding the directions takes longer than the search
BASIS_ROWS = 8192  # vectors that the principal directions are taken from


class Index(Protocol):
    vectors: Floats  # (N, D)

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """(Q, k) scores, falling, and (Q, k) ids of the k nearest vectors. k is at most N."""
        ...


class TorchIndex:
    """Exact search by matrix products, in blocks of queries, on any device: memory for QUERY_BLOCK x N scores."""

    def __init__(self, vectors: Floats, device: str = "cpu") -> None:
        self.vectors = vectors
        self._columns = _tensor(vectors).to(device).T  # (D, N)

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        scores = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int64)
        device = self._columns.device
        block = torch.empty((min(QUERY_BLOCK, len(queries)), len(self.vectors)), device=device)
        for start in range(0, len(queries), QUERY_BLOCK):
            rows = _tensor(queries[start : start + QUERY_BLOCK]).to(device)
            best = torch.mm(rows, self._columns, out=block[: len(rows)]).topk(k, dim=1)
            scores[start : start + len(rows)] = best.values.cpu().numpy()
            ids[start : start + len(rows)] = best.indices.cpu().numpy()
        return scores, ids


def _tensor(rows: Floats) -> torch.Tensor:
    return torch.from_numpy(np.require(rows, requirements=["C", "W"]))  # copies what is mapped from a file


class FaissIndex:
    """Exact search by faiss (IndexFlatIP), where it is installed: the base for its approximate indexes."""

    def __init__(self, vectors: Floats) -> None:
        import faiss

        self.vectors = vectors
        self._flat = faiss.IndexFlatIP(vectors.shape[1])
        self._flat.add(np.ascontiguousarray(vectors))

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        scores, ids = self._flat.search(np.ascontiguousarray(queries), k)
        return scores, ids


def open_index(vectors: Floats, backend: Literal["torch", "faiss"] = "torch", device: str = "cpu") -> Index:
    """Torch unless faiss is asked for: exact search was twice as fast in torch as in faiss on CPU."""
    return FaissIndex(vectors) if backend == "faiss" else TorchIndex(vectors, device)


def cosine(left: Floats, left_ids: Ints, right: Floats, right_ids: Ints) -> Scores:
    """(P,) cosines of left[left_ids] with right[right_ids], in float64, rounded: the only scores that decide."""
    scores = np.empty(len(left_ids))
    for start in range(0, len(left_ids), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        a, b = left[left_ids[part]].astype(np.float64), right[right_ids[part]].astype(np.float64)  # (P, D)
        norms = np.sqrt(np.einsum("pd,pd->p", a, a) * np.einsum("pd,pd->p", b, b))
        scores[part] = np.einsum("pd,pd->p", a, b) / norms
    rounded: Scores = np.round(scores, DIGITS)
    return rounded


def _rough(left: Floats, left_ids: Ints, right: Floats, right_ids: Ints) -> Floats:
    """(P,) cosines in float32, of vectors of unit length."""
    scores = np.empty(len(left_ids), np.float32)
    for start in range(0, len(left_ids), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        scores[part] = np.einsum("pd,pd->p", left[left_ids[part]], right[right_ids[part]])
    return scores


class Hits(NamedTuple):
    query: Ints  # (P,)
    id: Ints  # (P,)
    score: Scores  # (P,)
    saturated: int  # queries with k vectors or more


def above(vectors: Floats, queries: Floats, threshold: float, k: int, device: str = "cpu") -> Hits:
    """All vectors within `threshold` of each query. Lists start at `k` and double while their last entry still passes.

    What is searched is an upper bound of the cosine, in fewer dimensions. A query that is itself among the vectors
    finds itself, but nothing is assumed of where in its list.
    """
    size = len(vectors)
    bounds, asked = _upper_bounds(vectors, queries)
    index = open_index(bounds, device=device)
    found: list[Ints] = [np.empty((2, 0), np.int64)]
    pending, length = np.arange(len(queries)), min(k, size)
    while len(pending) and size:
        scores, ids = index.nearest(asked[pending], length)
        full = (scores[:, -1] >= threshold - MARGIN) & (length < size)
        rows, columns = np.nonzero((scores >= threshold - MARGIN) & ~full[:, None])
        found.append(np.stack([pending[rows], ids[rows, columns]]))
        pending, length = pending[full], min(2 * length, size)
    query, id_ = np.concatenate(found, axis=1)
    near = _rough(queries, query, vectors, id_) >= threshold - MARGIN  # spares most of the float64
    query, id_ = query[near], id_[near]
    score = cosine(queries, query, vectors, id_)
    passed = score >= threshold
    saturated = int((np.bincount(query[passed]) >= k).sum())
    return Hits(query[passed], id_[passed], score[passed], saturated)


def _upper_bounds(vectors: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """(N, B + 1) and (Q, B + 1) whose inner products are no less than those of the (N, D) and (Q, D) given.

    The first B coordinates are those along the principal directions of the vectors; the last is the length of what is
    left, and two remainders agree at most as far as their lengths allow (Cauchy-Schwarz). Any orthonormal basis is
    right, a good one proposes few pairs in vain.
    """
    if vectors.shape[1] <= 2 * BOUND_DIMENSIONS or len(vectors) < WORTHWHILE:
        return vectors, queries
    some = vectors[:: max(1, len(vectors) // BASIS_ROWS)].astype(np.float64)
    basis = np.linalg.eigh(some.T @ some)[1][:, -BOUND_DIMENSIONS:].astype(np.float32)  # (D, B)
    return _bounded(vectors, basis), _bounded(queries, basis)


def _bounded(rows: Floats, basis: Floats) -> Floats:
    bounded = np.empty((len(rows), basis.shape[1] + 1), np.float32)
    bounded[:, :-1] = rows @ basis
    squares = np.einsum("nd,nd->n", rows, rows) - np.einsum("nb,nb->n", bounded[:, :-1], bounded[:, :-1])
    bounded[:, -1] = np.sqrt(np.maximum(squares, 0))
    return bounded


def ranked(index: Index, queries: Floats, k: int) -> tuple[Scores, Ints]:
    """(Q, k) scores and ids of the k nearest, by falling score, ties by id. k is at most N."""
    size = len(index.vectors)
    scores, ids = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    pending, longer = np.arange(len(queries)), min(2 * k, size)
    while len(pending):
        last, near = index.nearest(queries[pending], longer)
        exact = cosine(queries, np.repeat(pending, longer), index.vectors, near.ravel()).reshape(near.shape)
        order = np.lexsort((near, -exact), axis=1)[:, :k]
        scores[pending] = np.take_along_axis(exact, order, 1)
        ids[pending] = np.take_along_axis(near, order, 1)
        # what lies beyond the list could only matter where the k-th is as good as the list's end
        unsure = (scores[pending, -1] <= last[:, -1] + MARGIN) & (longer < size)
        pending, longer = pending[unsure], min(2 * longer, size)
    return scores, ids
