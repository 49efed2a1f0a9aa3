"""A detector of copies that needs no weights: candidates by small pictures of crops, each then compared by alignment."""

import numpy as np

from dinov2lab.curation.align import compared
from dinov2lab.curation.crops import Pictures, candidates, located
from dinov2lab.curation.neighbours import Hits
from dinov2lab.curation.vectors import Ints, Scores, Vectors

PX = 32  # a side of the pictures that are compared, whatever the size of the images
FLOOR = 0.6  # likeness to a crop, as a cosine, below which nobody is a candidate
MOST = 20  # candidates of each image


def found(vectors: Vectors, queries: Vectors, threshold: float, mirrored: bool = True) -> Hits:
    """The pairs of `queries` and `vectors`, (N, PX, PX, 3) pictures, whose score is at least `threshold`.

    Either of two may show a part of the other.
    """
    if not len(vectors) or not len(queries):
        return Hits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 0, None)
    pool, asked = np.asarray(vectors[:]), np.asarray(queries[:])
    inward = candidates(asked, pool, MOST + 1, FLOOR, mirrored)
    outward = candidates(pool, asked, MOST // 2, FLOOR, mirrored)  # there are fewer to choose from
    query, image = np.concatenate([inward.whole, outward.image]), np.concatenate([inward.image, outward.whole])
    score = np.concatenate([compared(asked, pool, inward), compared(pool, asked, outward)])
    query, image = np.unique(np.stack([query[score >= threshold], image[score >= threshold]]), axis=1)
    score = _either(asked, pool, query, image, mirrored)
    return Hits(query, image, score, int((np.bincount(query) > MOST).sum()), None)


def within(vectors: Vectors, threshold: float, mirrored: bool = True, of: Ints | None = None) -> Hits:
    """The pairs among `vectors` that are found from the images `of` (all of them): each shows a part of its candidates.

    An image finds itself too. All pairs are those that are found from the parts of any cut, together.
    """
    pool, asked = np.asarray(vectors[:]), np.arange(len(vectors)) if of is None else of
    inward = candidates(pool[asked], pool, MOST + 1, FLOOR, mirrored)
    near = compared(pool[asked], pool, inward) >= threshold
    query, image = asked[inward.whole[near]], inward.image[near]
    return Hits(query, image, _either(pool, pool, query, image, mirrored), int((np.bincount(query) > MOST).sum()), None)


def scores(vectors: Vectors, left: Ints, right: Ints, mirrored: bool = True) -> Scores:
    """(P,) the score of each pair of pictures, whichever of the two shows a part of the other."""
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    pictures = np.asarray(vectors[rows])
    return _either(pictures, pictures, places[: len(left)], places[len(left) :], mirrored)


def _either(left: Pictures, right: Pictures, one: Ints, other: Ints, mirrored: bool) -> Scores:
    """(P,) the better score of left[one] as a part of right[other], and of the latter as a part of the former."""
    best = np.zeros(len(one))
    for wholes, pictures, a, b in ((left, right, one, other), (right, left, other, one)):
        pairs, order = located(wholes, pictures, a, b, mirrored)
        best[order] = np.maximum(best[order], compared(wholes, pictures, pairs))
    return best
