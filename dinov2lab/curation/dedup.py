"""Copies: within a pool (self-deduplication) and of evaluation images (relative deduplication); DINOv2, appendix A.3.

    N rows, in the order of their paths; D dimensions; P pairs

Rows whose decoded pixels are equal are copies with score 1, whatever the embedder says, and are searched for once, by
the first of them. All else is decided by the rounded float64 cosine of two rows, or of one row and the mirror image
of the other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab.curation import copies
from dinov2lab.curation.index import Search
from dinov2lab.curation.neighbours import DEFAULT, Hits, Recall, above
from dinov2lab.curation.vectors import Chosen, Ints, Scores, Vectors, cosine


class Rows(NamedTuple):
    """Images as an embedder and the exact comparison see them."""

    features: Vectors  # (N, D) of unit length
    mirrored: Vectors | None  # (N, D) of the mirror images
    pixels: NDArray[np.bytes_]  # (N,) equal where the decoded images are equal
    pictures: bool = False  # whether the features are pictures, to be compared by alignment (copies.py)

    def chosen(self, rows: Ints) -> "Rows":
        mirrored = None if self.mirrored is None else Chosen(self.mirrored, rows)
        return Rows(Chosen(self.features, rows), mirrored, self.pixels[rows], self.pictures)


class Pairs(NamedTuple):
    """Near copies, each pair once, in the order of (a, b)."""

    a: Ints  # (P,) rows of the pool
    b: Ints  # (P,) rows of the same pool, with a < b; or of the references
    score: Scores  # (P,)
    saturated: int  # rows with so many near copies that a list of the length asked for cannot hold them
    recall: Recall | None = None  # of an index that is not exact

    def only(self, which: NDArray[np.bool_]) -> "Pairs":
        return self._replace(a=self.a[which], b=self.b[which], score=self.score[which])

    def within(self, count: int) -> "Pairs":
        """Those between the first `count` rows."""
        return self.only((self.a < count) & (self.b < count))


def find_pairs(rows: Rows, threshold: float, neighbours: int) -> Pairs:
    """Near copies among `rows`."""
    first, member = distinct(rows.pixels)
    return among(near_copies(rows.chosen(first), threshold), member, neighbours)


def distinct(pixels: NDArray[np.bytes_]) -> tuple[Ints, Ints]:
    """The first row of each set of equal pixels, rising, and (N,) the set of each row."""
    _, first, member = np.unique(pixels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return first[order], number[member]


def near_copies(rows: Rows, threshold: float, search: Search = DEFAULT, *, of: Ints | None = None) -> Pairs:
    """The pairs of `rows`, no two of equal pixels, that are found by looking for near copies of `of` (of all of them)."""
    hits = _search(rows, rows, threshold, 64, search, of)
    other = hits.query != hits.id
    query, found = hits.query[other], hits.id[other]
    return _best(np.minimum(query, found), np.maximum(query, found), hits.score[other], len(rows.features), hits)


def with_new(rows: Rows, new: Ints, threshold: float, search: Search = DEFAULT) -> list[Pairs]:
    """The pairs of `rows` that have one of the rows `new` in them."""
    old = np.setdiff1d(np.arange(len(rows.pixels)), new)
    found = [near_copies(rows, threshold, search, of=new)] if len(new) else []
    if len(new) and len(old) and (rows.pictures or rows.mirrored is not None):  # else, one direction tells the other
        hits = _search(rows.chosen(new), rows.chosen(old), threshold, 64, search)
        a, b = np.sort([new[hits.id], old[hits.query]], axis=0)
        found.append(_best(a, b, hits.score, len(rows.pixels), hits))
    return found


def together(parts: Sequence[Pairs]) -> Pairs:
    """Each pair once, with its best score; their recall is that of the last that has one."""
    a, b, score = (np.concatenate([part[field] for part in parts]) for field in range(3))
    last = next((part for part in reversed(parts) if part.recall), parts[-1])
    return _best(a, b, score, 1 + int(b.max(initial=0)), last)


def among(near: Pairs, member: Ints, neighbours: int) -> Pairs:
    """The pairs of rows of which `member` (N,) says which of the images of `near` each shows.

    A near copy is paired with the first of a set of exact copies. Exact copies are all paired with one another while
    they are no more than `neighbours`, else each with the first: the components are the same.
    """
    shown, first = np.unique(member, return_index=True)
    place = np.full(1 + max(shown.max(initial=0), near.b.max(initial=0)), -1)
    place[shown] = first
    here = (place[near.a] >= 0) & (place[near.b] >= 0)
    left, right = place[near.a[here]], place[near.b[here]]
    exact_a, exact_b = _exact_pairs(member, neighbours)
    a = np.concatenate([np.minimum(left, right), exact_a])
    b = np.concatenate([np.maximum(left, right), exact_b])
    crowded = int((np.bincount(np.concatenate([left, right])) + 1 >= neighbours).sum())
    score = np.concatenate([near.score[here], np.ones(len(exact_a))])
    return _best(a, b, score, len(member), near)._replace(saturated=crowded)


def find_leaks(pool: Rows, references: Rows, threshold: float, search: Search = DEFAULT) -> Pairs:
    """Rows of the pool within `threshold` of a reference: the pairs (pool row, reference).

    Only these leave the pool. DINOv2 discards the whole component that touches a reference; among images of one domain
    components chain look-alikes together that are no copies of the reference, and what an edit makes of a copy is near
    the reference itself at a threshold below that of the duplicates.
    """
    hits = _search(pool, references, threshold, 64, search)
    exact_a, exact_b = _equal(pool.pixels, references.pixels)
    a, b = np.concatenate([hits.id, exact_a]), np.concatenate([hits.query, exact_b])
    score = np.concatenate([hits.score, np.ones(len(exact_a))])
    return _best(a, b, score, len(references.features), hits)


def _search(
    rows: Rows, queries: Rows, threshold: float, neighbours: int, search: Search, of: Ints | None = None
) -> Hits:
    if rows.pictures and rows is queries:
        return copies.within(rows.features, threshold, queries.mirrored is not None, of)
    if rows.pictures:
        return copies.found(rows.features, queries.features, threshold, queries.mirrored is not None)
    asked = [images for images in (queries.features, queries.mirrored) if images is not None]
    hits = [above(rows.features, images, threshold, neighbours, search, of) for images in asked]
    query, id_, score = (np.concatenate([hit[field] for hit in hits]) for field in range(3))
    measured = [hit.recall for hit in hits if hit.recall is not None]
    return Hits(query, id_, score, sum(hit.saturated for hit in hits), Recall.of_all(measured))


def scores(rows: Rows, left: Ints, right: Ints) -> Scores:
    """(P,) the better of the cosine and the two mirrored cosines, or the detector's score; 1 where the pixels are equal."""
    if rows.pictures:
        score = copies.scores(rows.features, left, right, rows.mirrored is not None)
    else:
        score = cosine(rows.features, left, rows.features, right)
    if rows.mirrored is not None and not rows.pictures:
        for a, b in ((left, right), (right, left)):
            score = np.maximum(score, cosine(rows.mirrored, a, rows.features, b))
    equal: NDArray[np.bool_] = rows.pixels[left] == rows.pixels[right]
    return np.where(equal, 1.0, score)


def _exact_pairs(member: Ints, most: int) -> tuple[Ints, Ints]:
    """Pairs of rows of one set; `member` (N,) numbers the sets."""
    several = np.flatnonzero(np.bincount(member)[member] > 1)
    order = several[np.argsort(member[several], kind="stable")]
    sets = np.split(order, np.flatnonzero(np.diff(member[order])) + 1)
    a, b = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows in (rows for rows in sets if len(rows) > 1):
        i, j = np.triu_indices(len(rows), 1)
        within = (i == 0) | (len(rows) <= most)
        a.append(rows[i[within]])
        b.append(rows[j[within]])
    return np.concatenate(a), np.concatenate(b)


def _equal(left: NDArray[np.bytes_], right: NDArray[np.bytes_]) -> tuple[Ints, Ints]:
    """Rows of `left` and `right` with equal values, each of `left` with the first that equals it."""
    values, first = np.unique(right, return_index=True)
    if not len(values):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    place = np.minimum(np.searchsorted(values, left), len(values) - 1)
    rows = np.flatnonzero(values[place] == left)
    return rows, first[place[rows]]


def _best(a: Ints, b: Ints, score: Scores, width: int, hits: Hits | Pairs) -> Pairs:
    """Each pair once, with its best score. All b are below `width`."""
    order = np.lexsort((-score, b, a))
    _, once = np.unique(a[order] * max(width, 1) + b[order], return_index=True)
    rows = order[once]
    return Pairs(a[rows], b[rows], score[rows], hits.saturated, hits.recall)
