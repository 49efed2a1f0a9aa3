"""Fewer of what there is much of: capped clusters, flat or in a hierarchy, and weights against density.

N rows, in the order of their paths; D dimensions; K clusters
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab.curation.cluster import Centres, kmeans
from dinov2lab.curation.vectors import Chosen, Floats, Ints, Scores, Vectors
from dinov2lab.draws import Key, uniforms


class Clustering(NamedTuple):
    label: Ints  # (N,)
    score: Scores  # (N,) cosine to the cluster's centre
    centres: Floats  # (K, D)


def flat(vectors: Vectors, count: int) -> Clustering:
    centres = kmeans(vectors, count, "flat")
    return Clustering(*Centres(centres).scored(vectors), centres)


def hierarchy(vectors: Vectors, levels: tuple[int, ...], resamplings: int, nearest: int) -> list[Clustering]:
    """Each level clusters the centres of the one below it, the first the vectors (Vo et al., section 3).

    A resampling takes the vectors nearest to each centre, which lie more evenly than all of them, finds the centres of these
    and gives all vectors to them.
    """
    found: list[Clustering] = []
    for number, count in enumerate(levels):
        points: Vectors = found[-1].centres if found else vectors
        centres = kmeans(points, count, f"level {number}")
        label, score = Centres(centres).scored(points)
        for step in range(resamplings):
            typical = np.sort(foremost(label, places_within(label, -score), nearest))
            centres = kmeans(Chosen(points, typical), count, f"level {number}, resampling {step}")
            label, score = Centres(centres).scored(points)
        found.append(Clustering(label, score, centres))
    return found


def places_within(label: Ints, order: Scores | NDArray[np.uint64]) -> Ints:
    """(N,) the place of each row in its cluster, the smallest `order` first, the first row among equals."""
    rows = np.lexsort((np.arange(len(label)), order, label))
    starts = np.flatnonzero(np.diff(label[rows], prepend=-1))
    sizes = np.diff(np.r_[starts, len(rows)])
    place = np.empty(len(label), np.int64)
    place[rows] = np.arange(len(rows)) - np.repeat(starts, sizes)
    return place


def foremost(label: Ints, place: Ints, most: int | Ints) -> Ints:
    """Rows whose place in their cluster is below `most`: one number, or (K,) one for each cluster."""
    limit = most if isinstance(most, int) else most[label]
    rows: Ints = np.flatnonzero(place < limit)
    return rows


def filled(sizes: Ints, budget: int) -> Ints:
    """(K,) how many to take of clusters of these sizes: min(size, cap), the cap as even as `budget` allows.

    What the cap leaves over goes one each to the first clusters that have more.
    """
    budget = min(budget, int(sizes.sum()))
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # the largest cap that costs no more than the budget
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= budget else (low, middle - 1)
    taken: Ints = np.minimum(sizes, low)
    more = np.flatnonzero(sizes > low)[: budget - int(taken.sum())]
    taken[more] += 1
    return taken


def quotas(levels: list[Clustering], budget: int) -> Ints:
    """(K,) how many to take of each cluster of the lowest level: the budget is filled into the clusters of the highest,
    and the share of each into its parts, level by level.
    """
    sizes = [np.bincount(levels[0].label, minlength=len(levels[0].centres))]
    for level in levels[1:]:
        sizes.append(np.bincount(level.label, sizes[-1], minlength=len(level.centres)).astype(np.int64))
    share = filled(sizes[-1], budget)
    for level, below in zip(reversed(levels[1:]), reversed(sizes[:-1]), strict=True):
        parts = np.zeros(len(below), np.int64)
        for cluster in np.flatnonzero(share).tolist():
            children = np.flatnonzero(level.label == cluster)
            parts[children] = filled(below[children], int(share[cluster]))
        share = parts
    return share


def spread_out(distance: Scores, images: int, power: float, key: Key) -> Ints:
    """`images` rows drawn one after the other without replacement, with weights distance ** power.

    The smallest of exponential variables with the weights as their rates come first (Efraimidis and Spirakis 2006).
    """
    weight = np.maximum(distance, 1e-6) ** power
    arrival = -np.log1p(-uniforms(key, "inverse density", np.arange(len(distance)), 1)[:, 0]) / weight
    drawn: Ints = np.sort(np.lexsort((np.arange(len(distance)), arrival))[:images])
    return drawn
