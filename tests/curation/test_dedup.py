"""Near copies, components, leaks, against naive comparisons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.curation.dedup import Pairs, Rows, find_leaks, find_pairs
from dinov2lab.curation.rules import representatives


def rows(count: int, seed: int, spread: float = 0.4, mirrored: bool = True) -> Rows:
    """A few tight groups in 6 dimensions; mirroring exchanges two halves, as it exchanges columns of a thumbnail."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 4), 6))
    vectors = centres[rng.integers(0, len(centres), count)] + spread * rng.standard_normal((count, 6))
    features = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = np.array([f"x{number:03}" for number in range(count)])
    return Rows(features, features[:, [3, 4, 5, 0, 1, 2]] if mirrored else None, names)


def naive_scores(left: Rows, right: Rows) -> np.ndarray:
    a, b = left.features.astype(float), right.features.astype(float)
    score = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    if right.mirrored is not None:
        m = right.mirrored.astype(float)
        score = np.maximum(score, a @ m.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(m, axis=1))
    return np.round(score, 6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.6, 0.9]), st.booleans(), st.integers(1, 9))
def test_pairs_are_those_of_a_full_comparison(count, seed, threshold, mirrored, neighbours):
    pool = rows(count, seed, mirrored=mirrored)
    pairs = find_pairs(pool, threshold, neighbours)
    truth = naive_scores(pool, pool)
    expected = {(a, b): truth[a, b] for a in range(count) for b in range(a + 1, count) if truth[a, b] >= threshold}
    assert dict(zip(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True), pairs.score, strict=True)) == expected


def test_exact_copies_are_pairs_whatever_the_embedder_says():
    pool = rows(4, 0)._replace(pixels=np.array(["same", "a", "same", "same"]), mirrored=None)
    pairs = find_pairs(pool, 1.0, 64)
    assert list(zip(pairs.a, pairs.b, strict=True)) == [(0, 2), (0, 3), (2, 3)]
    assert (pairs.score == 1).all()


def test_many_exact_copies_are_paired_with_the_first_and_near_copies_with_it_too():
    vectors = np.repeat(np.float32([[1, 0], [0.9999, 0.0141418]]), [500, 1], axis=0)
    pool = Rows(vectors, None, np.array(["same"] * 500 + ["other"]))
    pairs = find_pairs(pool, 0.95, 64)
    assert list(zip(pairs.a, pairs.b, strict=True)) == [(0, other) for other in range(1, 501)]
    kept, _ = representatives(pool, pairs)
    assert set(kept) == {0}


def test_the_most_central_member_of_a_component_stands_for_it():
    angles = np.radians([0, 20, 10, 80])  # 0 - 10 - 20 degrees is a chain at cos 11
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pool = Rows(vectors, None, np.array(list("abcd")))
    pairs = find_pairs(pool, float(np.cos(np.radians(11))), 64)
    kept, score = representatives(pool, pairs)
    assert kept.tolist() == [2, 2, 2, 3]
    np.testing.assert_allclose(score, np.cos(np.radians([10, 10, 0, 0])), atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(0, 99))
def test_representatives_are_one_for_each_component_and_stand_for_themselves(count, seed):
    pool = rows(count, seed)
    pairs = find_pairs(pool, 0.85, 4)
    kept, _ = representatives(pool, pairs)
    label = list(range(count))  # components by repeated relabelling
    for _ in range(count):
        for a, b in zip(pairs.a, pairs.b, strict=True):
            label[a] = label[b] = min(label[a], label[b])
    assert all((kept[a] == kept[b]) == (label[a] == label[b]) for a in range(count) for b in range(count))
    assert (kept[kept] == kept).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_leaks_are_those_of_a_full_comparison(mirrored):
    pool, references = rows(60, 1), rows(25, 1, mirrored=mirrored)
    references = references._replace(pixels=np.array([f"t{number}" for number in range(25)]))
    found = find_leaks(pool, references, 0.8)
    truth = naive_scores(pool, references)
    expected = {(a, b): truth[a, b] for a in range(60) for b in range(25) if truth[a, b] >= 0.8}
    assert dict(zip(zip(found.a.tolist(), found.b.tolist(), strict=True), found.score, strict=True)) == expected
    assert expected


def test_equal_pixels_are_a_leak_whatever_the_embedder_says():
    pool, references = rows(5, 0, mirrored=False), rows(3, 9, mirrored=False)
    found = find_leaks(pool, references._replace(pixels=np.array(["y", "x002", "z"])), 1.0)
    assert list(zip(found.a, found.b, found.score, strict=True)) == [(2, 1, 1.0)]


def test_nothing_is_paired_in_an_empty_list_of_pairs():
    pool = rows(3, 0, mirrored=False)
    none = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 0)
    kept, score = representatives(pool, none)
    assert kept.tolist() == [0, 1, 2]
    assert (score == 1).all()
