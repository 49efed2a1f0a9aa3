"""Retrieval against the rule as it is told, and samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.curation.retrieve import closest, retrieve, sample
from dinov2lab.draws import Key


def unit(count: int, seed: int, distinct: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((distinct or count, 4))[rng.integers(0, distinct or count, count)]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def told(pool: np.ndarray, queries: np.ndarray, images: int) -> list[tuple[int, int]]:
    """Round by round, query by query: (row, query) in the order of taking."""
    score = np.round(
        queries.astype(float)
        @ pool.astype(float).T
        / np.linalg.norm(queries.astype(float), axis=1)[:, None]
        / np.linalg.norm(pool.astype(float), axis=1),
        6,
    )
    order = np.argsort(-score, axis=1, kind="stable")
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
