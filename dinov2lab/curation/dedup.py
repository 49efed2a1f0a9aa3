"""Copies: within a pool (self-deduplication) and of evaluation images (relative deduplication); DINOv2, appendix A.3.

    N rows, in the order of their paths; D dimensions; P pairs

Rows whose decoded pixels are equal are copies with score 1, whatever the embedder says, and are searched for once, by
the first of them. All else is decided by the rounded float64 cosine of two rows, or of one row and the mirror image
of the other.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dinov2lab.curation.index import DIGITS, Floats, Hits, Ints, Scores, above, cosine


class Rows(NamedTuple):
    """Images as an embedder and the exact comparison see them."""

    features: Floats  # (N, D) of unit length
    mirrored: Floats | None  # (N, D) of the mirror images
    pixels: NDArray[np.str_]  # (N,) equal where the decoded images are equal

    def first(self, count: int) -> "Rows":
        return Rows(self.features[:count], _of(self.mirrored, slice(count)), self.pixels[:count])


class Pairs(NamedTuple):
    """Near copies, each pair once, in the order of (a, b)."""

    a: Ints  # (P,) rows of the pool
    b: Ints  # (P,) rows of the same pool, with a < b; or of the references
    score: Scores  # (P,)
    saturated: int  # rows with so many near copies that a list of the first length cannot hold them

    def within(self, count: int) -> "Pairs":
        """Those between the first `count` rows."""
        inside = (self.a < count) & (self.b < count)
        return Pairs(self.a[inside], self.b[inside], self.score[inside], self.saturated)


def find_pairs(rows: Rows, threshold: float, neighbours: int, device: str = "cpu") -> Pairs:
    """Near copies among `rows`.

    A near copy is paired with the first of a set of exact copies. Exact copies are all paired with one another while
    they are no more than `neighbours`, else each with the first: the components are the same.
    """
    _, first, member = np.unique(rows.pixels, return_index=True, return_inverse=True)
    hits = _search(rows.features[first], _of(rows.mirrored, first), rows.features[first], threshold, neighbours, device)
    query, found = first[hits.query], first[hits.id]
    other = query != found
    exact_a, exact_b = _exact_pairs(member, neighbours)
    a = np.concatenate([np.minimum(query, found)[other], exact_a])
    b = np.concatenate([np.maximum(query, found)[other], exact_b])
    score = np.concatenate([hits.score[other], np.ones(len(exact_a))])
    return _best(a, b, score, len(rows.features), hits.saturated)


def find_leaks(pool: Rows, references: Rows, threshold: float, device: str = "cpu") -> Pairs:
    """Rows of the pool within `threshold` of a reference: the pairs (pool row, reference).

    Only these leave the pool. DINOv2 discards the whole component that touches a reference; among images of one domain
    components chain look-alikes together that are no copies of the reference, and what an edit makes of a copy is near
    the reference itself at a threshold below that of the duplicates.
    """
    hits = _search(pool.features, references.mirrored, references.features, threshold, 64, device)
    exact_a, exact_b = _equal(pool.pixels, references.pixels)
    a, b = np.concatenate([hits.id, exact_a]), np.concatenate([hits.query, exact_b])
    score = np.concatenate([hits.score, np.ones(len(exact_a))])
    return _best(a, b, score, len(references.features), hits.saturated)


def representatives(rows: Rows, pairs: Pairs) -> tuple[Ints, Scores]:
    """(N,) the row that stands for each row, itself included, and (N,) the score between the two.

    Each connected component keeps the member with the largest sum of scores to the others that it is paired with, the
    first path among equals: the most typical of its copies, chosen without a look at size, file or order of rows.
    """
    count = len(rows.features)
    graph = coo_array((np.ones(len(pairs.a)), (pairs.a, pairs.b)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    units = np.rint(pairs.score * 10**DIGITS).astype(np.int64)  # whole numbers add up to the same in any order
    degree = np.zeros(count, np.int64)
    np.add.at(degree, pairs.a, units)
    np.add.at(degree, pairs.b, units)
    order = np.lexsort((np.arange(count), -degree, component))
    _, start = np.unique(component[order], return_index=True)
    kept = order[start][component]
    score = np.ones(count)
    others = np.flatnonzero(kept != np.arange(count))
    score[others] = _scores(rows, others, kept[others])
    return kept, score


def _search(
    vectors: Floats, mirrored: Floats | None, queries: Floats, threshold: float, neighbours: int, device: str
) -> Hits:
    asked = [images for images in (queries, mirrored) if images is not None]
    hits = [above(vectors, images, threshold, neighbours, device) for images in asked]
    parts = [np.concatenate([hit[field] for hit in hits]) for field in range(3)]
    return Hits(parts[0], parts[1], parts[2], sum(hit.saturated for hit in hits))


def _scores(rows: Rows, left: Ints, right: Ints) -> Scores:
    """(P,) the better of the cosine and the two mirrored cosines; 1 where the pixels are equal."""
    score = cosine(rows.features, left, rows.features, right)
    if rows.mirrored is not None:
        for a, b in ((left, right), (right, left)):
            score = np.maximum(score, cosine(rows.mirrored, a, rows.features, b))
    equal: NDArray[np.bool_] = rows.pixels[left] == rows.pixels[right]
    return np.where(equal, 1.0, score)


def _of(values: Floats | None, rows: Ints | slice) -> Floats | None:
    return None if values is None else values[rows]


def _exact_pairs(member: Ints, most: int) -> tuple[Ints, Ints]:
    """Pairs of rows of one set; `member` (N,) numbers the sets."""
    order = np.argsort(member, kind="stable")
    sets = np.split(order, np.flatnonzero(np.diff(member[order])) + 1)
    a, b = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows in (rows for rows in sets if len(rows) > 1):
        i, j = np.triu_indices(len(rows), 1)
        within = (i == 0) | (len(rows) <= most)
        a.append(rows[i[within]])
        b.append(rows[j[within]])
    return np.concatenate(a), np.concatenate(b)


def _equal(left: NDArray[np.str_], right: NDArray[np.str_]) -> tuple[Ints, Ints]:
    """Rows of `left` and `right` with equal values, each of `left` with the first that equals it."""
    values, first = np.unique(right, return_index=True)
    if not len(values):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    place = np.minimum(np.searchsorted(values, left), len(values) - 1)
    rows = np.flatnonzero(values[place] == left)
    return rows, first[place[rows]]


def _best(a: Ints, b: Ints, score: Scores, width: int, saturated: int) -> Pairs:
    """Each pair once, with its best score. All b are below `width`."""
    order = np.lexsort((-score, b, a))
    _, once = np.unique(a[order] * max(width, 1) + b[order], return_index=True)
    rows = order[once]
    return Pairs(a[rows], b[rows], score[rows], saturated)
