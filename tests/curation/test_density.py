"""Shares of queries among neighbours, against a count by hand; what a hub is worth by them; whitening."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.curation.density import densities, shares, whitened


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def counted(pool: np.ndarray, queries: np.ndarray, reference: np.ndarray, k: int) -> list[float]:
    """Row by row: all candidates but the row itself, sorted, at a tie pool images first."""
    found = []
    for row, vector in enumerate(pool.astype(float)):
        others = [(-round(float(vector @ pool[r].astype(float)), 6), 0) for r in reference if r != row]
        candidates = sorted(others + [(-round(float(vector @ q), 6), 1) for q in queries.astype(float)])[:k]
        found.append(sum(is_query for _, is_query in candidates) / len(candidates))
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 15), st.integers(1, 30), st.integers(0, 99))
def test_a_share_is_counted_among_all_candidates_but_the_image_itself(size, queries, k, seed):
    rng = np.random.default_rng(seed)
    pool, seeds = unit(rng.standard_normal((size, 5))), unit(rng.standard_normal((queries, 5)))
    reference = rng.permutation(size)[:queries]
    found = shares(pool, seeds, reference, k)
    np.testing.assert_allclose(found.share, counted(pool, seeds, reference, k))
    np.testing.assert_array_equal(found.query, np.argmax(np.round(pool.astype(float) @ seeds.T.astype(float), 6), 1))


def test_an_image_near_to_everything_gains_nothing_by_it():
    rng, axis = np.random.default_rng(0), np.eye(16)
    around = lambda centre, count: unit(axis[centre] + 0.2 * rng.standard_normal((count, 16)))
    seeds, hub = around(0, 200), unit((axis[0] + axis[1])[None])
    pool = np.concatenate([around(0, 100), around(1, 300), hub])
    found = shares(pool, seeds, rng.permutation(401)[:200], 50)
    assert set(found.order()[:100].tolist()) == set(range(100))
    assert (found.cosine[:100] < found.cosine[400]).sum() > 25  # by its cosine alone it would stand before these
    assert found.share[400] < found.share[:100].min()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 15), st.booleans(), st.integers(0, 99))
def test_a_density_weighs_all_but_the_image_itself(size, queries, mirrored, seed):
    rng = np.random.default_rng(seed)
    pool, seeds = unit(rng.standard_normal((size, 5))), unit(rng.standard_normal((queries, 5)))
    turned, reference = seeds[:, ::-1].copy(), rng.permutation(size)[:queries]
    found = densities(pool, [seeds, turned] if mirrored else [seeds], reference, 0.3)
    for row, vector in enumerate(pool.astype(float)):
        weight = lambda other, vector=vector: np.exp((vector @ other.astype(float) - 1) / 0.3)
        near = np.mean([weight(query) for query in (*seeds, *turned)[: queries * (1 + mirrored)]])
        far = sum(weight(pool[other]) for other in reference if other != row) / len(reference)
        assert found.share[row] == pytest.approx(near / (near + far), abs=1e-6)
    np.testing.assert_array_equal(found.query, np.argmax(pool.astype(float) @ seeds.T.astype(float), 1))
    with pytest.raises(ValueError, match="no readable query"):
        densities(pool, [seeds[:0]], reference, 0.3)


def test_without_a_query_there_is_no_share():
    with pytest.raises(ValueError, match="no readable query"):
        shares(np.eye(3, dtype=np.float32), np.empty((0, 3), np.float32), np.arange(3), 2)


def test_whitening_brings_principal_directions_to_one_deviation_and_takes_blocks_of_rows():
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal((4000, 6)) * [5, 3, 2, 2, 1, 1] + 7).astype(np.float32)
    white, query = whitened(pool, pool[:10], 1.0)
    rows = white[:]
    np.testing.assert_array_equal(query[:], rows[:10])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    spread = np.linalg.eigvalsh(np.cov(rows.T))
    assert spread.max() / spread.min() < 1.5
    plain = whitened(pool, pool, 0.0)[0][:]
    assert np.linalg.eigvalsh(np.cov(plain.T)).max() > 5 * np.linalg.eigvalsh(np.cov(plain.T)).min()
