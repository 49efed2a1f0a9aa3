"""Indexes behind one small interface, and which of them is used.

    Q queries, N vectors, D dimensions, float32 and of unit length; k neighbours

An index only proposes. Its float32 scores depend on threads, block sizes and devices: neighbours.py takes every score that
is compared or stored again in float64.

    exact         matrix products in torch, on any device
    ivf           inverted lists in torch: each vector in the list of its nearest centre, a query looks into `probes` lists
    faiss_flat, faiss_ivf, faiss_ivfpq    where faiss is installed; of the last, what the codes propose is ranked anew
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from dinov2lab.curation.cluster import ASKED, Centres, kmeans, tensor
from dinov2lab.curation.vectors import Floats, Ints, Vectors, blocks, rough

Kind = Literal["exact", "ivf", "faiss_flat", "faiss_ivf", "faiss_ivfpq"]
QUERY_BLOCK = 512
FOUND = 65536  # proposals that are handed over together
LIST = 256  # vectors in a list, on average
PROBES = 2
EXACT_PAIRS = 4 * 10**9  # of query and vector: on a CPU, a minute or so; beyond, lists are looked into
EXACT_ON_CUDA = 10**7  # vectors
ANEW = 4  # times k proposals of codes are ranked anew
CODE_BYTES = 48


class Index(Protocol):
    vectors: Vectors  # (N, D)
    probes: int  # lists that a query looks into, of an index that has lists; may be set

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """(Q, k) scores, falling, and (Q, k) ids of the k nearest vectors. k is at most N."""
        ...

    def within(self, queries: Vectors, threshold: float) -> Iterator[tuple[Ints, Ints]]:
        """(P,) queries and (P,) ids of the vectors whose scores are `threshold` or more, some at a time."""
        ...


class Search(NamedTuple):
    """Where and how to search: logistics. An index that is not exact changes rows by its recall alone, which is measured."""

    device: str = "cpu"
    kind: Kind | Literal["auto"] = "auto"
    memory: int = 8 * 2**30  # bytes that vectors may take

    def chosen(self, size: int, queries: int, dim: int) -> Kind:
        """The index for so many vectors and queries: exact while that takes minutes, codes where vectors do not fit."""
        if self.kind != "auto":
            return self.kind
        if size <= EXACT_ON_CUDA if self.device != "cpu" else size * queries <= EXACT_PAIRS:
            return "exact"
        codes = size * dim * 4 > self.memory and find_spec("faiss") is not None
        return "faiss_ivfpq" if codes else "ivf"


class TorchIndex:
    """Exact search in blocks of queries, on any device: memory for the vectors and QUERY_BLOCK x N scores."""

    def __init__(self, vectors: Vectors, device: str = "cpu") -> None:
        self.vectors, self.probes = vectors, 1
        self._columns = tensor(vectors[:]).to(device).T  # (D, N)

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        scores = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int64)
        for part, block in self._products(queries):
            best = block.topk(k, dim=1)
            scores[part], ids[part] = best.values.cpu().numpy(), best.indices.cpu().numpy()
        return scores, ids

    def within(self, queries: Vectors, threshold: float) -> Iterator[tuple[Ints, Ints]]:
        for part, block in self._products(queries):
            query, id_ = (block >= threshold).nonzero().cpu().numpy().T
            yield query + part.start, id_

    def _products(self, queries: Vectors) -> Iterator[tuple[slice, torch.Tensor]]:
        out = torch.empty((min(QUERY_BLOCK, len(queries)), len(self.vectors)), device=self._columns.device)
        for part, rows in blocks(queries, QUERY_BLOCK):
            yield part, torch.mm(tensor(rows).to(self._columns.device), self._columns, out=out[: len(rows)])


class ListsIndex:
    """Inverted lists: the products of a list's vectors with all queries that look into it are taken at once.

    Vectors and queries stay where they are, in files perhaps: a list is read once, a query once for each of its lists.
    Which lists a query looks into is decided as by float64, so that the threads decide nothing.
    """

    def __init__(self, vectors: Vectors, probes: int = PROBES) -> None:
        self.vectors, self.probes = vectors, probes
        self._centres = Centres(kmeans(vectors, max(1, len(vectors) // LIST), "lists", sample=16))
        label = self._centres.labels(vectors)
        self._order = np.argsort(label, kind="stable")
        self._starts = np.searchsorted(label[self._order], np.arange(len(self._centres) + 1))

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        scores, ids = torch.full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        pending, probes = np.arange(len(queries)), min(self.probes, len(self._centres))
        while len(pending):  # a list may hold less than k
            scores[pending], ids[pending] = self._nearest(queries[pending], k, probes)
            pending = pending[ids[pending, -1].numpy() < 0]
            probes = min(2 * probes, len(self._centres))
        return scores.numpy(), ids.numpy()

    def _nearest(self, queries: Floats, k: int, probes: int) -> tuple[torch.Tensor, torch.Tensor]:
        scores, ids = torch.full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        for members, row, products in self._visits(queries, probes):
            both = torch.cat([scores[row], products], dim=1)
            names = torch.cat([ids[row], members.expand(len(row), -1)], dim=1)
            best = both.topk(k, dim=1)
            scores[row], ids[row] = best.values, names.gather(1, best.indices)
        return scores, ids

    def within(self, queries: Vectors, threshold: float) -> Iterator[tuple[Ints, Ints]]:
        found, count = list[torch.Tensor](), 0
        for members, row, products in self._visits(queries, min(self.probes, len(self._centres))):
            query, place = (products >= threshold).nonzero().T
            found.append(torch.stack([row[query], members[place]]))
            count += len(query)
            if count >= FOUND:
                yield _both(found)
                found, count = [], 0
        yield _both(found)

    def _visits(self, queries: Vectors, probes: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each list that is looked into: its vectors' ids (M,), the queries (V,), products (V, M)."""
        lists = np.empty((len(queries), probes), np.int32)
        for part, rows in blocks(queries, ASKED):
            lists[part] = np.minimum(self._centres.nearest(rows, probes), len(self._centres))
        order = np.argsort(lists, axis=None, kind="stable")
        bounds = np.searchsorted(lists.ravel()[order], np.arange(len(self._centres) + 1))
        for number in np.flatnonzero((np.diff(bounds) > 0) & (np.diff(self._starts) > 0)).tolist():
            members = self._order[self._starts[number] : self._starts[number + 1]]
            row = order[bounds[number] : bounds[number + 1]] // probes
            for some in np.array_split(row, -(-len(row) // ASKED)):
                products = tensor(queries[some]) @ tensor(self.vectors[members]).T
                yield torch.from_numpy(members), torch.from_numpy(some), products


def _both(found: list[torch.Tensor]) -> tuple[Ints, Ints]:
    query, id_ = torch.cat([torch.empty((2, 0), dtype=torch.int64), *found], dim=1).numpy()
    return query, id_


class FaissIndex:
    """faiss on the CPU: flat, inverted lists, or lists of codes whose proposals are ranked anew by their vectors."""

    def __init__(self, vectors: Vectors, kind: Kind = "faiss_flat") -> None:
        import faiss

        self.vectors, self._coded = vectors, kind == "faiss_ivfpq"
        self._lists = 1 if kind == "faiss_flat" else max(1, len(vectors) // LIST)
        self._index = _built(faiss, kind, vectors, self._lists)
        self.probes = PROBES

    @property
    def probes(self) -> int:
        return self._probes

    @probes.setter
    def probes(self, count: int) -> None:
        self._probes = count
        if self._lists > 1:
            self._index.nprobe = min(count, self._lists)

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        asked = np.ascontiguousarray(queries)
        length = min(ANEW * k, len(self.vectors)) if self._coded else k
        scores, ids = self._index.search(asked, length)
        while (ids[:, k - 1] < 0).any() and self.probes < self._lists:  # the lists held less than k
            self.probes = 2 * self.probes
            scores, ids = self._index.search(asked, length)
        return _anew(self.vectors, asked, ids, k) if self._coded else (scores, ids)

    def within(self, queries: Vectors, threshold: float) -> Iterator[tuple[Ints, Ints]]:
        for part, rows in blocks(queries):
            if self._coded:
                query, ids = _within_by_lists(self, rows, threshold)
            else:
                limits, _, ids = self._index.range_search(rows, threshold)
                query = np.repeat(np.arange(len(rows)), np.diff(limits.astype(np.int64)))
            yield query + part.start, ids


def _built(faiss: Any, kind: Kind, vectors: Vectors, lists: int) -> Any:
    dim = vectors.shape[1]
    index = flat = faiss.IndexFlatIP(dim)
    if kind != "faiss_flat":
        flat.add(kmeans(vectors, lists, "lists", sample=16))  # our own centres: the same on any number of threads
        index = _with_lists(faiss, kind, flat, lists)
        index.train(_some(vectors, max(256, 16 * lists)))
    for _, rows in blocks(vectors):
        index.add(rows)
    return index


def _with_lists(faiss: Any, kind: Kind, centres: Any, lists: int) -> Any:
    if kind == "faiss_ivf":
        return faiss.IndexIVFFlat(centres, centres.d, lists, faiss.METRIC_INNER_PRODUCT)
    code = next(size for size in range(min(CODE_BYTES, centres.d), 0, -1) if centres.d % size == 0)
    return faiss.IndexIVFPQ(centres, centres.d, lists, code, 8, faiss.METRIC_INNER_PRODUCT)


def _some(vectors: Vectors, count: int) -> Floats:
    return np.ascontiguousarray(vectors[:: max(1, len(vectors) // count)])


def _anew(vectors: Vectors, queries: Floats, ids: Ints, k: int) -> tuple[Floats, Ints]:
    """The best k of each row of proposals, by their vectors."""
    real = ids >= 0
    scores = np.full(ids.shape, -np.inf, np.float32)
    scores[real] = rough(queries, np.nonzero(real)[0], vectors, ids[real])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def _within_by_lists(index: Index, queries: Floats, threshold: float) -> tuple[Ints, Ints]:
    """Range search by neighbour lists that double while their last entry still passes."""
    found = [np.empty((2, 0), np.int64)]
    pending, length = np.arange(len(queries)), min(64, len(index.vectors))
    while len(pending):
        scores, ids = index.nearest(queries[pending], length)
        full = (scores[:, -1] >= threshold) & (length < len(index.vectors))
        row, column = np.nonzero((scores >= threshold) & ~full[:, None])
        found.append(np.stack([pending[row], ids[row, column]]))
        pending, length = pending[full], min(2 * length, len(index.vectors))
    query, id_ = np.concatenate(found, axis=1)
    return query, id_


def open_index(vectors: Vectors, search: Search = Search(), kind: Kind = "exact") -> Index:
    match kind:
        case "exact":
            return TorchIndex(vectors, search.device)
        case "ivf":
            return ListsIndex(vectors)
        case _:
            return FaissIndex(vectors, kind)
