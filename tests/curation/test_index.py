"""Search: exact scores whatever the index, and lists that are long enough."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.curation.index import ListsIndex, Search, TorchIndex, open_index
from dinov2lab.curation.neighbours import WORTHWHILE, above, open_for, ranked, widened
from dinov2lab.curation.vectors import Chosen, cosine


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    a, b = queries.astype(np.float64), vectors.astype(np.float64)
    return np.round((a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1), 6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.floats(-0.5, 0.9), st.integers(1, 70), st.integers(0, 99))
def test_above_finds_exactly_what_a_full_comparison_finds(size, queries, threshold, k, seed):
    vectors, asked = unit(size, 4, seed), unit(queries, 4, seed + 1)
    hits = above(vectors, asked, threshold, k)
    expected = {(q, v) for q, v in zip(*np.nonzero(naive(asked, vectors) >= threshold), strict=True)}
    assert set(zip(hits.query.tolist(), hits.id.tolist(), strict=True)) == expected
    assert len(hits.query) == len(expected)


@pytest.mark.parametrize("spread", [0.05, 1.0])  # on few directions, as pictures are, and on all
def test_searching_bounds_in_fewer_dimensions_loses_nothing(spread):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2 * WORTHWHILE, 150)) * np.where(np.arange(150) < 40, 1, spread)
    rows = np.concatenate([rows, rows[:200] + 0.3 * spread * rng.standard_normal((200, 150))])
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    hits = above(vectors, vectors[-400:], 0.9, 8)
    expected = {(q, v) for q, v in zip(*np.nonzero(naive(vectors[-400:], vectors) >= 0.9), strict=True)}
    assert set(zip(hits.query.tolist(), hits.id.tolist(), strict=True)) == expected
    assert len(expected) >= 600  # themselves, and the copies


def test_a_list_full_of_copies_is_extended_and_counted():
    vectors = np.concatenate([np.repeat(unit(1, 8), 300, axis=0), unit(200, 8, 1)])
    hits = above(vectors, vectors[:1], 0.999, 64)
    assert sorted(hits.id.tolist()) == list(range(300))
    assert hits.saturated == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 99))
def test_ranked_breaks_ties_by_id(size, k, seed):
    k = min(k, size)
    vectors = unit(max(1, size // 4), 5, seed)[np.random.default_rng(seed).integers(0, max(1, size // 4), size)]
    scores, ids = ranked(open_index(vectors), unit(7, 5, seed + 1), k)
    truth = naive(unit(7, 5, seed + 1), vectors)
    order = np.argsort(-truth, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(truth, order, 1))


def test_scores_are_rounded_float64():
    a, b = unit(50, 300), unit(50, 300, 1)
    rows = np.arange(50)
    np.testing.assert_allclose(cosine(a, rows, b, rows), np.diag(naive(a, b)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("block", [1, 3])
def test_threads_decide_nothing(block):
    vectors = np.concatenate([unit(400, 16), unit(400, 16) + 1e-4 * unit(400, 16, 2)]).astype(np.float32)
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            answers.append((above(vectors, vectors[::block], 0.7, 4), ranked(TorchIndex(vectors), vectors, 9)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(answers[0][1], answers[1][1], strict=True):
        np.testing.assert_array_equal(one, two)
    keys = [np.lexsort((hits.id, hits.query)) for hits, _ in answers]
    for field in range(3):
        np.testing.assert_array_equal(answers[0][0][field][keys[0]], answers[1][0][field][keys[1]])


def grouped(count: int, dim: int, seed: int, copies: int) -> np.ndarray:
    """Groups of look-alikes, and near copies of some of them."""
    rng = np.random.default_rng(seed)
    rows = 2 * rng.standard_normal((40, dim))[rng.integers(0, 40, count)] + rng.standard_normal((count, dim))
    rows = np.concatenate([rows, rows[:copies] + 0.2 * rng.standard_normal((copies, dim))])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


FAISS = ("faiss_flat", "faiss_ivf", "faiss_ivfpq")


@pytest.mark.parametrize("kind", ["ivf", *FAISS])
def test_an_index_that_is_not_exact_misses_little_and_says_how_much(kind):
    if kind in FAISS:
        pytest.importorskip("faiss", reason="faiss is one of two extras")
    vectors = grouped(3000, 32, 0, 300)
    truth = above(vectors, vectors, 0.9, 64)
    hits = above(Chosen(vectors, np.arange(len(vectors))), vectors, 0.9, 64, Search(kind=kind))
    pairs = [set(zip(each.query.tolist(), each.id.tolist(), strict=True)) for each in (truth, hits)]
    assert pairs[1] <= pairs[0]  # what is proposed wrongly, the float64 score throws out
    assert len(pairs[1]) >= 0.99 * len(pairs[0])
    if kind == "faiss_flat":
        assert hits.recall is None
        return
    recall = hits.recall.record()
    assert recall["index"] == kind
    assert recall["measured_on"] > 100
    apart = [{(q, v) for q, v in found if q != v} for found in pairs]
    assert recall["recall"] == pytest.approx(len(apart[1]) / len(apart[0]), abs=0.03)


@pytest.mark.parametrize("kind", ["ivf", *FAISS])
def test_the_nearest_are_found_by_any_index(kind):
    if kind in FAISS:
        pytest.importorskip("faiss", reason="faiss is one of two extras")
    vectors, asked = grouped(3000, 32, 0, 300), grouped(100, 32, 0, 50)
    exact = ranked(open_index(vectors), asked, 10)[1]
    index, _ = open_for(vectors, asked, Search(kind=kind))
    recall = widened(index, kind, asked, 10)
    found = ranked(index, asked, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found[1], strict=True)]) >= 0.98
    assert (np.diff(found[0], axis=1) <= 0).all()
    if recall:
        assert recall.found / recall.of >= 0.99


def test_lists_that_hold_less_than_is_wanted_are_joined_by_others():
    vectors = grouped(1500, 8, 1, 0)
    index = ListsIndex(vectors, probes=1)
    _, ids = index.nearest(vectors[:5], 1200)
    assert (ids >= 0).all()
    assert all(len(set(row)) == 1200 for row in ids.tolist())


def test_what_lists_propose_does_not_depend_on_threads():
    vectors, before = grouped(3000, 32, 3, 300), torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            answers.append(above(vectors, vectors, 0.9, 64, Search(kind="ivf")))
    finally:
        torch.set_num_threads(before)
    one, two = ({*zip(*(values.tolist() for values in hits[:3]), strict=True)} for hits in answers)
    assert one == two


def test_the_index_follows_from_size_device_and_memory():
    assert Search().chosen(50_000, 50_000, 384) == "exact"
    assert Search().chosen(1_000_000, 1_000_000, 384) == "ivf"
    assert Search(device="cuda").chosen(1_000_000, 1_000_000, 384) == "exact"
    assert Search(kind="ivf").chosen(10, 10, 384) == "ivf"
    small = Search(memory=2**20).chosen(1_000_000, 1_000_000, 384)
    assert small == ("faiss_ivfpq" if find_spec("faiss") else "ivf")
