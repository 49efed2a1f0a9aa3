"""Retrieval against the rule as it is told, and samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.curation.retrieve import closest, of_clusters, retrieve, retrieve_each, sample
from dinov2lab.draws import Key


def unit(count: int, seed: int, distinct: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((distinct or count, 4))[rng.integers(0, distinct or count, count)]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def lists(pool: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q, N) rows by falling score, and (Q, N) rounded cosines."""
    score = np.round(
        queries.astype(float)
        @ pool.astype(float).T
        / np.linalg.norm(queries.astype(float), axis=1)[:, None]
        / np.linalg.norm(pool.astype(float), axis=1),
        6,
    )
    return np.argsort(-score, axis=1, kind="stable"), score


def told(pool: np.ndarray, queries: np.ndarray, images: int) -> list[tuple[int, int]]:
    """Round by round, query by query: (row, query) in the order of taking."""
    order, score = lists(pool, queries)
    taken: dict[int, int] = {}
    for rank in range(len(pool)):
        offers = sorted((-score[q, order[q, rank]], order[q, rank], q) for q in range(len(queries)))
        for _, row, query in offers:
            if len(taken) < images and row not in taken:
                taken[int(row)] = query
    return list(taken.items())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 70), st.integers(0, 99), st.booleans())
def test_rows_are_taken_as_the_rule_tells(size, queries, images, seed, copies):
    pool, seeds = unit(size, seed, max(1, size // 3) if copies else None), unit(queries, seed + 1)
    taken = retrieve(pool, seeds, images)
    assert list(zip(taken.rows.tolist(), taken.query.tolist(), strict=True)) == told(pool, seeds, images)
    exact = np.einsum("nd,nd->n", pool[taken.rows].astype(float), seeds[taken.query].astype(float))
    np.testing.assert_allclose(taken.score, exact, atol=2e-6)


def test_queries_that_want_the_same_image_collide():
    pool = np.float32([[1, 0], [0, 1]])
    taken = retrieve(pool, np.float32([[1, 0], [1, 0], [0.8, 0.6]]), 1)
    assert (taken.rows.tolist(), taken.ranks, taken.collisions) == ([0], 1, 2)


def test_a_smaller_selection_lies_in_a_larger_one():
    pool, seeds = unit(200, 0), unit(7, 1)
    assert retrieve(pool, seeds, 150).rows[:30].tolist() == retrieve(pool, seeds, 30).rows.tolist()


def test_no_query_is_an_error():
    with pytest.raises(ValueError, match="no readable query"):
        retrieve(unit(3, 0), np.empty((0, 4), np.float32), 2)


def test_the_closest_query_of_each_row():
    pool, seeds = unit(30, 0), unit(5, 1)
    query, score = closest(pool, seeds)
    truth = pool.astype(float) @ seeds.astype(float).T
    np.testing.assert_array_equal(query, truth.argmax(1))
    np.testing.assert_allclose(score, truth.max(1), atol=2e-6)


@given(st.integers(1, 80), st.integers(1, 90), st.integers(0, 5), st.randoms())
def test_samples_are_nested_and_know_no_order_of_rows(size, images, seed, random):
    names = np.array([f"{number * 7919 % 1000:04}" for number in range(size)])
    drawn = names[sample(names, images, Key(seed))]
    assert len(set(drawn)) == min(images, size)
    assert set(names[sample(names, images // 2, Key(seed))]) <= set(drawn)
    shuffled = np.array(random.sample(names.tolist(), size))
    assert set(shuffled[sample(shuffled, images, Key(seed))]) == set(drawn)


def test_another_seed_or_replicate_draws_another_sample():
    names = np.array([str(number) for number in range(1000)])
    draws = [frozenset(sample(names, 50, key)) for key in (Key(0), Key(1), Key(0, 1))]
    assert len(set(draws)) == 3


def told_for_each(pool: np.ndarray, queries: np.ndarray, k: int, collisions: str) -> list[tuple[int, int]]:
    """Rank by rank, query by query, until each has its k: (row, query) in the order of taking."""
    order, score = lists(pool, queries)
    taken: dict[int, int] = {}
    have = [0] * len(queries)
    for rank in range(len(pool) if collisions == "fill" else min(k, len(pool))):
        asking = [q for q in range(len(queries)) if collisions == "keep" or have[q] < k]
        for _, row, query in sorted((-score[q, order[q, rank]], order[q, rank], q) for q in asking):
            if row not in taken:
                taken[int(row)] = query
                have[query] += 1
    return list(taken.items())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 8), st.integers(0, 99), st.booleans(),
    st.sampled_from(["fill", "keep"]), st.one_of(st.none(), st.integers(1, 30)),
)  # fmt: skip
def test_each_query_takes_its_own_as_the_rules_tell(size, queries, k, seed, copies, collisions, cap):
    pool, seeds = unit(size, seed, max(1, size // 3) if copies else None), unit(queries, seed + 1)
    taken = retrieve_each(pool, seeds, k, collisions, cap)
    expected = told_for_each(pool, seeds, k, collisions)
    assert list(zip(taken.rows.tolist(), taken.query.tolist(), strict=True)) == expected[:cap]
    if collisions == "keep":
        assert taken.collisions == queries * min(k, size) - len(expected)


def test_what_collides_is_missing_or_filled_from_further_down():
    pool = np.float32([[1, 0], [0.96, 0.28], [0, 1]])
    twins = np.float32([[1, 0], [1, 0]])
    kept, filled = (retrieve_each(pool, twins, 1, collisions) for collisions in ("keep", "fill"))
    assert (kept.rows.tolist(), kept.collisions) == ([0], 1)
    assert (filled.rows.tolist(), filled.query.tolist(), filled.collisions) == ([0, 1], [0, 1], 1)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.integers(0, 5), max_size=20),
    st.integers(0, 3),
    st.integers(1, 6),
    st.one_of(st.none(), st.integers(1, 20)),
)
def test_clusters_give_rows_where_they_hold_enough_queries(label, query_label, more_than, each, cap):
    place = [label[:number].count(own) for number, own in enumerate(label)]
    rows = of_clusters(
        np.array(label), np.array(place), np.array(query_label, int), more_than=more_than, per_cluster=each, images=cap
    )
    allowed = {n for n in range(len(label)) if query_label.count(label[n]) > more_than and place[n] < each}
    if cap is None:
        assert set(rows.tolist()) == allowed
        return
    assert set(rows.tolist()) <= allowed
    assert len(rows) == min(cap, len(allowed))
    sizes = [sum(label[row] == own for row in rows) for own in range(6)]
    for own in range(6):  # nobody has two more than one that could have had more
        could = sum(label[n] == own for n in allowed)
        assert sizes[own] == could or sizes[own] >= max(sizes) - 1
