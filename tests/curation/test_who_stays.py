"""Who stays of a graph of near copies, against rules told row by row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.curation.dedup import Pairs, Rows
from dinov2lab.curation.rules import chained, places, representatives, typicality


def graph(count: int, edges: int, seed: int) -> Pairs:
    """Random pairs with scores of few values, so that there are ties."""
    rng = np.random.default_rng(seed)
    ends = {tuple(sorted(pair)) for pair in rng.integers(0, count, (edges, 2)).tolist() if pair[0] != pair[1]}
    a, b = (np.array([pair[n] for pair in sorted(ends)], np.int64) for n in (0, 1))
    return Pairs(a, b, rng.choice([0.5, 0.75, 1.0], len(a)), 0)


def blank(count: int) -> Rows:
    return Rows(np.eye(count, dtype=np.float32), None, np.arange(count).astype(str))


def table(pairs: Pairs) -> dict[int, dict[int, float]]:
    near: dict[int, dict[int, float]] = {}
    for a, b, score in zip(*(values.tolist() for values in pairs[:3]), strict=True):
        near.setdefault(a, {})[b] = near.setdefault(b, {})[a] = score
    return near


def told(pairs: Pairs, place: np.ndarray, greedy: bool) -> dict[int, tuple[int, float]]:
    """Row by row: who makes it fall, and the score between the two."""
    near, fate = table(pairs), dict[int, tuple[int, float]]()
    for row in np.argsort(place).tolist():
        before = [
            (score, -place[other], other) for other, score in near.get(row, {}).items() if place[other] < place[row]
        ]
        if greedy:
            before = [each for each in before if each[2] not in fate]
        if before:
            score, _, other = max(before)
            fate[row] = other, score
    return fate


graphs = st.builds(graph, st.integers(1, 30), st.integers(0, 60), st.integers(0, 999))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 60), st.integers(0, 999), st.booleans())
def test_rows_fall_one_by_one_as_the_rules_tell(count, edges, seed, greedy):
    pairs, place = graph(count, edges, seed), np.random.default_rng(seed).permutation(count)
    keeper, score = representatives(blank(count), pairs, "greedy" if greedy else "semdedup", place)
    fate = told(pairs, place, greedy)
    assert {row: (keeper[row], score[row]) for row in range(count) if keeper[row] != row} == fate


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(0, 60), st.integers(0, 999))
def test_rules_keep_more_the_less_they_chain(count, edges, seed):
    pairs, place = graph(count, edges, seed), np.random.default_rng(seed).permutation(count)
    kept = [
        set(np.flatnonzero(representatives(blank(count), pairs, rule, place)[0] == np.arange(count)))
        for rule in ("components", "semdedup", "greedy")
    ]
    assert kept[0] <= kept[1] <= kept[2]
    near = table(pairs)
    assert not any(other in kept[2] for row in kept[2] for other in near.get(row, {}))  # no two near copies stay
    assert all(row in kept[2] or set(near[row]) & kept[2] for row in range(count))  # and nobody falls for nothing


def test_a_chain_keeps_its_ends_greedily_and_one_end_otherwise():
    pairs = Pairs(np.array([0, 1]), np.array([1, 2]), np.array([0.9, 0.9]), 0)
    kept = [
        np.flatnonzero(representatives(blank(3), pairs, rule, np.arange(3))[0] == np.arange(3)).tolist()
        for rule in ("components", "semdedup", "greedy")
    ]
    assert kept == [[0], [0], [0, 2]]


def test_the_largest_comes_first_and_among_equals_the_first_path():
    assert places(np.array([3, 9, 9, 1])).tolist() == [2, 0, 1, 3]
    assert typicality(Pairs(np.array([0]), np.array([2]), np.array([0.5]), 0), 3).tolist() == [500_000, 0, 500_000]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 999), st.lists(st.integers(0, 29), max_size=4))
def test_all_of_a_leaked_component_is_chained_to_a_leak_by_pairs_that_lead_there(count, edges, seed, some):
    pairs, leaked = graph(count, edges, seed), np.array(sorted({row % count for row in some}), np.int64)
    nearer, score = chained(leaked, pairs, count)
    near, reached = table(pairs), set(leaked.tolist())
    for _ in range(count):  # spread until nothing is new
        reached |= {other for row in reached for other in near.get(row, {})}
    assert set(np.flatnonzero(nearer >= 0)) == reached
    for row in reached - set(leaked.tolist()):
        assert score[row] == near[row][nearer[row]]
        steps = 0
        while row not in leaked:
            row, steps = nearer[row], steps + 1
            assert steps <= count
