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

    Either of two may show a part of the other. Where `vectors` are `queries`, an image finds itself too.
    """
    if not len(vectors) or not len(queries):
        return Hits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 0, None)
    pool, asked = np.asarray(vectors[:]), np.asarray(queries[:])
    inward = candidates(asked, pool, MOST + 1, FLOOR, mirrored)
    query, image, score = inward.whole, inward.image, compared(asked, pool, inward)
    if queries is vectors:
        query, image, score = np.concatenate([query, image]), np.concatenate([image, query]), np.tile(score, 2)
    else:
        outward = candidates(pool, asked, MOST // 2, FLOOR, mirrored)  # there are fewer to choose from
        query, image = np.concatenate([query, outward.image]), np.concatenate([image, outward.whole])
        score = np.concatenate([score, compared(pool, asked, outward)])
    near = score >= threshold
    query, image = np.unique(np.stack([query[near], image[near]]), axis=1)
    score = _either(asked, pool, query, image, mirrored)
    return Hits(query, image, score, int((np.bincount(query) > MOST).sum()), None)


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
