"""Rows by choice: those closest to curated queries (DINOv2, section 3), or drawn at random.

N rows of the pool, Q queries, D dimensions; R rows taken
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab import draws
from dinov2lab.curation.balance import filled
from dinov2lab.curation.index import Index, Kind, Search, open_index
from dinov2lab.curation.neighbours import DEFAULT, Recall, open_for, ranked, widened
from dinov2lab.curation.vectors import BLOCK, Ints, Scores, Vectors

FIRST_RANKS = 64
MOST_STEP = 16  # times as many ranks at once
HELD = 2**21  # neighbours of queries that are looked at together


class Retrieved(NamedTuple):
    rows: Ints  # (R,) pool rows, in the order in which they were taken
    query: Ints  # (R,) the query that took each
    score: Scores  # (R,) their cosine
    ranks: int  # how many neighbours of each query were looked at
    collisions: int  # neighbours within these ranks that another query, or an earlier rank, had taken
    recall: Recall | None = None


def retrieve(pool: Vectors, queries: Vectors, images: int, search: Search = DEFAULT) -> Retrieved:
    """(N, D) and (Q, D) unit vectors: `images` rows of the pool, or all where it has no more.

    For rank 1, 2, ... each query takes its neighbour of that rank, the best scores first, unless it is taken already.
    So a row is taken at the best rank that it has with any query, by the query with the best score at that rank; and
    only these three numbers need be kept for each row.
    """
    _some_query(queries)
    wanted, ranks = min(images, len(pool)), min(FIRST_RANKS, len(pool))
    opened = open_for(pool, queries, search)
    found = _best_ranks(*opened, queries, ranks)
    while (seen := found.within(ranks)) < wanted:
        ranks = min(_enough(ranks, found.within(ranks // 2), seen, wanted), len(pool))
        found = _best_ranks(*opened, queries, ranks)
    taken = found.order()[:wanted]
    rounds = int(found.rank[taken[-1]]) + 1 if wanted else 0
    collisions = len(queries) * rounds - int(np.count_nonzero(found.rank < rounds))
    return Retrieved(taken, found.query[taken], found.score[taken], rounds, collisions, found.recall)


def retrieve_each(
    pool: Vectors,
    queries: Vectors,
    per_query: int,
    collisions: Literal["fill", "keep"],
    images: int | None = None,
    search: Search = DEFAULT,
) -> Retrieved:
    """So many rows for each query, and no more than `images` in all, the best ranks and then scores first.

    `keep`: the neighbours of the first `per_query` ranks, of which several queries may have the same. `fill`: rank after
    rank, each query that has not enough yet takes its neighbour, the best scores first, unless it is taken already.
    """
    _some_query(queries)
    ranks = min(per_query, len(pool))
    if collisions == "fill":
        return _each_its_own(pool, queries, per_query, images, search)
    found = _best_ranks(*open_for(pool, queries, search), queries, ranks)
    taken = found.order()[: int(np.count_nonzero(found.rank < ranks))]
    missing = len(queries) * ranks - len(taken)
    taken = taken[:images]
    return Retrieved(taken, found.query[taken], found.score[taken], ranks, missing, found.recall)


def _some_query(queries: Vectors) -> None:
    if not len(queries):
        raise ValueError("retrieval has no readable query image to start from")


def _enough(ranks: int, half: int, seen: int, wanted: int) -> int:
    """How many ranks are likely to give `wanted` rows, where so many gave `seen` and half as many `half`."""
    power = min(max(math.log2(seen / max(half, 1)), 0.25), 1.0)
    return math.ceil(ranks * min(math.pow(1.1 * wanted / seen, 1 / power), MOST_STEP))


class _Ranked(NamedTuple):
    """Of each pool row its best rank with any query, that query, their cosine."""

    rank: Ints  # (N,)
    query: Ints
    score: Scores
    recall: Recall | None

    def within(self, ranks: int) -> int:
        """How many rows have a rank below `ranks`."""
        return int(np.count_nonzero(self.rank < ranks))

    def order(self) -> Ints:
        """The rows in the order of taking."""
        rows: Ints = np.lexsort((np.arange(len(self.rank)), -self.score, self.rank))
        return rows


def _best_ranks(index: Index, kind: Kind, queries: Vectors, ranks: int) -> _Ranked:
    """The rank is `ranks` where it is beyond."""
    recall, size = widened(index, kind, queries, ranks), len(index.vectors)
    rank = np.full(size, ranks)
    query, score = np.full(size, -1), np.full(size, -np.inf)
    for start in range(0, len(queries), step := max(1, HELD // ranks)):
        scores, ids = ranked(index, queries[start : start + step], ranks)  # (Q, ranks)
        seen_by, seen_at = np.indices(ids.shape).reshape(2, -1)
        rows, cosines = ids.ravel(), scores.ravel()
        best = _first_of_each(rows, seen_at, -cosines, seen_by)
        row = rows[best]
        better = (seen_at[best] < rank[row]) | ((seen_at[best] == rank[row]) & (cosines[best] > score[row]))
        row, best = row[better], best[better]
        rank[row], query[row], score[row] = seen_at[best], start + seen_by[best], cosines[best]
    return _Ranked(rank, query, score, recall)


def _first_of_each(rows: Ints, *order: NDArray[np.generic]) -> Ints:
    """For each distinct row, the index of the entry that comes first by `order`, the first key foremost."""
    places = np.lexsort((*reversed(order), rows))
    first: Ints = places[np.unique(rows[places], return_index=True)[1]]
    return first


def _each_its_own(pool: Vectors, queries: Vectors, per_query: int, images: int | None, search: Search) -> Retrieved:
    """The lists double until each query has enough: what was taken at the ranks before stays taken."""
    length = min(2 * per_query, len(pool))
    index, kind = open_for(pool, queries, search)
    while True:
        recall = widened(index, kind, queries, length)
        lists = ranked(index, queries, length)
        taken, have, collisions, ranks = _taken_in_turn(*lists, len(pool), per_query)
        if have.min() >= per_query or length == len(pool):
            rows, query, score = taken
            return Retrieved(rows[:images], query[:images], score[:images], ranks, collisions, recall)
        length = min(2 * length, len(pool))


def _taken_in_turn(
    scores: Scores, ids: Ints, size: int, per_query: int
) -> tuple[tuple[Ints, Ints, Scores], Ints, int, int]:
    """((rows, queries, scores) in the order of taking), (Q,) how many each query has, collisions, ranks looked at."""
    free, have = np.ones(size, bool), np.zeros(len(ids), np.int64)
    taken: list[tuple[Ints, Ints, Scores]] = []
    looked = rank = 0
    for rank in range(ids.shape[1]):
        query = np.flatnonzero(have < per_query)
        if not len(query):
            break
        looked += len(query)
        row, score = ids[query, rank], scores[query, rank]
        open_ = free[row]
        query, row, score = query[open_], row[open_], score[open_]
        first = _first_of_each(row, -score, query)
        first = first[np.lexsort((row[first], -score[first]))]
        free[row[first]] = False
        have[query[first]] += 1
        taken.append((row[first], query[first], score[first]))
    else:
        rank = ids.shape[1]
    rows, queries, values = (np.concatenate([each[field] for each in taken]) for field in range(3))
    return (rows, queries, values), have, looked - len(rows), rank


def of_clusters(
    label: Ints, place: Ints, query_label: Ints, *, more_than: int, per_cluster: int, images: int | None
) -> Ints:
    """Rows of the clusters that hold more than so many queries, those with the lowest places in their clusters.

    `images` caps them all, filled into the clusters as evenly as these allow: the paper does not say how its cap is kept.
    """
    clusters = 1 + max(label.max(initial=-1), query_label.max(initial=-1))
    counts = np.bincount(query_label, minlength=clusters) > more_than
    sizes = np.where(counts, np.minimum(np.bincount(label, minlength=clusters), per_cluster), 0)
    quota = sizes if images is None else filled(sizes, images)
    rows: Ints = np.flatnonzero(place < quota[label])
    return rows


def closest(rows: Vectors, queries: Vectors, search: Search = DEFAULT) -> tuple[Ints, Scores]:
    """(N,) the query closest to each row, and their cosine."""
    index = open_index(queries, search, search.chosen(len(queries), len(rows), queries.shape[1]))
    query, score = np.empty(len(rows), np.int64), np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        near, found = ranked(index, rows[part], 1)
        query[part], score[part] = found[:, 0], near[:, 0]
    return query, score


def sample(content: NDArray[np.bytes_], images: int, key: draws.Key) -> Ints:
    """The first `images` of a random permutation of all rows in the order of `content`, (N,) distinct names.

    Neither the order of the rows nor the number wanted enters the permutation, so that a smaller sample lies in a
    larger one.
    """
    order = np.argsort(content, kind="stable")
    drawn: Ints = order[draws.permutation(key, "sample", len(content))[:images]]
    return drawn
