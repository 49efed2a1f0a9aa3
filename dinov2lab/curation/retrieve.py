"""Rows by choice: those closest to curated queries (sample-based retrieval, DINOv2 section 3), or drawn at random."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab import draws
from dinov2lab.curation.index import Floats, Ints, Scores, open_index, ranked

FIRST_RANKS = 16
QUERY_BLOCK = 1024


class Retrieved(NamedTuple):
    rows: Ints  # (R,) pool rows, in the order in which they were taken
    query: Ints  # (R,) the query that took each
    score: Scores  # (R,) their cosine
    ranks: int  # how many neighbours of each query were looked at
    collisions: int  # neighbours within these ranks that another query, or an earlier rank, had taken


def retrieve(pool: Floats, queries: Floats, images: int, device: str = "cpu") -> Retrieved:
    """(N, D) and (Q, D) unit vectors: `images` rows of the pool, or all where it has no more.

    For rank 1, 2, ... each query takes its neighbour of that rank, the best scores first, unless it is taken already.
    So a row is taken at the best rank that it has with any query, by the query with the best score at that rank; and
    only these three numbers need be kept for each row.
    """
    if not len(queries):
        raise ValueError("retrieval has no readable query image to start from")
    wanted, ranks = min(images, len(pool)), min(FIRST_RANKS, len(pool))
    rank, query, score = _best_ranks(pool, queries, ranks, device)
    while np.count_nonzero(rank < ranks) < wanted:
        ranks = min(2 * ranks, len(pool))
        rank, query, score = _best_ranks(pool, queries, ranks, device)
    taken = np.lexsort((np.arange(len(pool)), -score, rank))[:wanted]
    rounds = int(rank[taken[-1]]) + 1 if wanted else 0
    collisions = len(queries) * rounds - int(np.count_nonzero(rank < rounds))
    return Retrieved(taken, query[taken], score[taken], rounds, collisions)


def _best_ranks(pool: Floats, queries: Floats, ranks: int, device: str) -> tuple[Ints, Ints, Scores]:
    """Of each pool row its best rank with any query (`ranks` where it is beyond), that query, and their cosine."""
    index = open_index(pool, device=device)
    rank = np.full(len(pool), ranks)
    query, score = np.full(len(pool), -1), np.full(len(pool), -np.inf)
    for start in range(0, len(queries), QUERY_BLOCK):
        scores, ids = ranked(index, queries[start : start + QUERY_BLOCK], ranks)  # (Q, ranks)
        seen_by, seen_at = np.indices(ids.shape).reshape(2, -1)
        rows, cosines = ids.ravel(), scores.ravel()
        order = np.lexsort((seen_by, -cosines, seen_at, rows))
        best = order[np.unique(rows[order], return_index=True)[1]]
        row = rows[best]
        better = (seen_at[best] < rank[row]) | ((seen_at[best] == rank[row]) & (cosines[best] > score[row]))
        row, best = row[better], best[better]
        rank[row], query[row], score[row] = seen_at[best], start + seen_by[best], cosines[best]
    return rank, query, score


def closest(rows: Floats, queries: Floats, device: str = "cpu") -> tuple[Ints, Scores]:
    """(N,) the query closest to each row, and their cosine."""
    score, query = ranked(open_index(queries, device=device), rows, 1)
    return query[:, 0], score[:, 0]


def sample(content: NDArray[np.str_], images: int, key: draws.Key) -> Ints:
    """The first `images` of a random permutation of all rows in the order of `content`, (N,) distinct names.

    Neither the order of the rows nor the number wanted enters the permutation, so that a smaller sample lies in a
    larger one.
    """
    order = np.argsort(content, kind="stable")
    drawn: Ints = order[draws.permutation(key, "sample", len(content))[:images]]
    return drawn
