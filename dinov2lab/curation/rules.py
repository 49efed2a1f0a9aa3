"""Who stays of a graph of near copies, and who stands for the others.

    N rows, in the order of their paths; P pairs of near copies

Scores are added up in whole units of their last digit, so that sums are the same in any order.
"""

from typing import Literal

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from dinov2lab.curation.dedup import Pairs, Rows, scores
from dinov2lab.curation.vectors import DIGITS, Ints, Scores

Rule = Literal["components", "greedy", "semdedup"]


def typicality(pairs: Pairs, count: int) -> Ints:
    """(N,) the sum of a row's scores to its near copies, in units."""
    units = np.rint(pairs.score * 10**DIGITS).astype(np.int64)
    total = np.zeros(count, np.int64)
    np.add.at(total, pairs.a, units)
    np.add.at(total, pairs.b, units)
    return total


def places(first: Ints | Scores) -> Ints:
    """(N,) the place of each row where the largest of `first` comes first, the first path among equals."""
    place = np.empty(len(first), np.int64)
    place[np.lexsort((np.arange(len(first)), -first))] = np.arange(len(first))
    return place


def representatives(
    rows: Rows, pairs: Pairs, rule: Rule = "components", place: Ints | None = None
) -> tuple[Ints, Scores]:
    """(N,) the row that stands for each row, itself where it stays, and (N,) the score between the two.

    `place`: who comes first; the most typical unless it is given. For semdedup, `pairs` are those within clusters, and
    who stands for a row may itself have fallen.
    """
    count = len(rows.features)
    place = places(typicality(pairs, count)) if place is None else place
    if rule == "components":
        keeper = _components(pairs, place)
        score = np.ones(count)
        others = np.flatnonzero(keeper != np.arange(count))
        score[others] = scores(rows, others, keeper[others])
        return keeper, score
    return _one_by_one(pairs, place, spare_fallen=rule == "greedy")


def component_labels(pairs: Pairs, count: int) -> Ints:
    graph = coo_array((np.ones(len(pairs.a), np.int8), (pairs.a, pairs.b)), shape=(count, count))
    labels: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _components(pairs: Pairs, place: Ints) -> Ints:
    component = component_labels(pairs, len(place))
    order = np.lexsort((place, component))
    _, start = np.unique(component[order], return_index=True)
    keeper: Ints = order[start][component]
    return keeper


def _one_by_one(pairs: Pairs, place: Ints, *, spare_fallen: bool) -> tuple[Ints, Scores]:
    """Rows fall to their best-scored near copy before them, the foremost among equals.

    With `spare_fallen`, those that have fallen themselves make nobody fall.
    """
    swap = place[pairs.a] > place[pairs.b]
    before, after = np.where(swap, pairs.b, pairs.a), np.where(swap, pairs.a, pairs.b)
    order = np.lexsort((place[before], -pairs.score, place[after]))
    before, after, score = before[order], after[order], pairs.score[order]
    keeper, best = np.arange(len(place)), np.ones(len(place))
    if spare_fallen:
        counts = _still_counting(before, after, len(place))
        before, after, score = before[counts], after[counts], score[counts]
    fallen, first = np.unique(after, return_index=True)
    keeper[fallen], best[fallen] = before[first], score[first]
    return keeper, best


def _still_counting(before: Ints, after: Ints, count: int) -> Ints:
    """Indices of the pairs whose first member stays; `after` stands in the order of asking."""
    bounds = np.flatnonzero(np.diff(after, prepend=-1, append=-1))
    fallen = np.zeros(count, bool)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        fallen[after[start]] = not fallen[before[start:stop]].all()
    return np.flatnonzero(~fallen[before])


def chained(leaked: Ints, pairs: Pairs, count: int) -> tuple[Ints, Scores]:
    """(N,) for each row that near copies chain to one of `leaked`, its neighbour one step nearer, and their score.

    The row itself for `leaked`, -1 where no chain leads. Of several neighbours the best-scored counts, then the first.
    """
    nearer, score = np.full(count, -1), np.full(count, np.nan)
    nearer[leaked] = leaked
    ends = np.concatenate([pairs.a, pairs.b]), np.concatenate([pairs.b, pairs.a])
    graph = csr_array((np.concatenate([pairs.score, pairs.score]), ends), shape=(count, count))
    front = np.unique(leaked)
    while len(front):
        reached = graph[front].tocoo()
        row, via, value = reached.col, front[reached.row], reached.data
        new = nearer[row] < 0
        row, via, value = row[new], via[new], value[new]
        order = np.lexsort((via, -value, row))
        front, first = np.unique(row[order], return_index=True)
        nearer[front], score[front] = via[order][first], value[order][first]
    return nearer, score
