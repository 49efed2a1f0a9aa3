"""Clusters and what is drawn of them, against naive code; the same on any number of threads and for any blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.curation import cluster
from dinov2lab.curation.balance import Clustering, filled, flat, hierarchy, places_within, quotas, spread_out
from dinov2lab.curation.cluster import Centres, apportion, kmeans, means
from dinov2lab.curation.vectors import Chosen, blocks
from dinov2lab.draws import Key


def unit(count: int, dim: int, seed: int = 0, groups: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim))
    if groups:
        rows = 3 * rng.standard_normal((groups, dim))[rng.integers(0, groups, count)] + rows
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_nearest_centres_are_those_of_a_full_comparison(size, count, wanted, seed):
    vectors, centres = unit(size, 4, seed), unit(count, 4, seed + 1)[np.arange(count) // 2]  # each twice: ties
    wanted = min(wanted, count)
    truth = np.round(vectors.astype(float) @ centres.astype(float).T, 6)
    near = Centres(centres).nearest(vectors, wanted)
    np.testing.assert_array_equal(near, np.sort(np.argsort(-truth, axis=1, kind="stable")[:, :wanted]))
    label, score = Centres(centres).scored(vectors)
    np.testing.assert_array_equal(label, truth.argmax(1))
    np.testing.assert_allclose(score, truth.max(1), atol=2e-6)


def test_groups_of_centres_find_nearly_always_the_nearest(monkeypatch):
    rows = unit(3400, 16, 0, 60)
    vectors, centres = rows[:3000], rows[3000:]
    truth = (vectors.astype(float) @ centres.astype(float).T).argmax(1)
    monkeypatch.setattr(cluster, "FLAT", 100)
    assert (Centres(centres).labels(vectors) == truth).mean() > 0.99


@pytest.mark.parametrize("count", [1, 4])
def test_what_float32_leaves_open_is_decided_in_float64(monkeypatch, count):
    """Centres in near-equal pairs, closer than float32 can tell."""
    monkeypatch.setattr(cluster, "FLAT", 100)
    rows = unit(1000, 16, 0, 30)
    centres = np.repeat(rows[800:], 2, axis=0) + 1e-7 * unit(400, 16, 1)
    grouped = cluster._Grouped(centres)
    exact = np.sort(grouped.exactly(torch.from_numpy(rows[:800]).double(), count), axis=1)
    np.testing.assert_array_equal(Centres(centres).nearest(rows[:800], count), exact)
    near, sure = grouped.nearest(torch.from_numpy(rows[:800]), count)
    assert (np.sort(near)[sure] == exact[sure]).all()
    assert sure.any() == (count == 4)  # of pairs, never one alone


def test_an_iteration_is_the_direction_of_each_clusters_sum_and_empty_clusters_stay():
    vectors, before = unit(200, 5), unit(4, 5, 1)
    label = np.arange(200) % 3
    moved = means(vectors, label, before)
    for number in range(3):
        total = vectors[label == number].astype(float).sum(0)
        np.testing.assert_allclose(moved[number], total / np.linalg.norm(total), atol=1e-6)
    np.testing.assert_array_equal(moved[3], before[3])


def test_kmeans_separates_what_is_separate():
    groups = np.repeat(np.arange(5), 40)
    vectors = unit(5, 12)[groups] + 0.05 * unit(200, 12, 1)
    found = flat((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), 15)
    for number in range(len(found.centres)):  # more clusters than groups: none holds two groups
        assert len(set(groups[found.label == number])) <= 1
    assert found.score.min() > 0.99


@pytest.mark.parametrize("most_flat", [1024, 20])
def test_threads_and_blocks_decide_nothing(monkeypatch, most_flat):
    vectors, before = unit(3000, 24, 0, 30), torch.get_num_threads()
    monkeypatch.setattr(cluster, "FLAT", most_flat)
    answers = []
    try:
        for threads, block in ((1, 8192), (2, 700)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(cluster, "blocks", lambda rows, size=block: blocks(rows, size))
            centres = kmeans(Chosen(vectors, np.arange(3000)), 60, "test")
            answers.append((centres, *Centres(centres).scored(vectors)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, two)
    assert len(answers[0][0]) == 60


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 200))
def test_shares_add_up_and_none_exceeds_its_size(sizes, count):
    sizes = np.array(sizes)
    for shares in (apportion(sizes, count), filled(sizes, count)):
        assert shares.sum() == min(count, sizes.sum())
        assert (shares <= sizes).all()
        assert (shares >= 0).all()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 200))
def test_a_cap_is_as_even_as_can_be(sizes, budget):
    taken = filled(np.array(sizes), budget)
    level = np.zeros(len(sizes), int)  # one at a time to the first of the least served that has more
    for _ in range(min(budget, sum(sizes))):
        level[min((n for n in range(len(sizes)) if level[n] < sizes[n]), key=lambda n: (level[n], n))] += 1
    assert taken.tolist() == level.tolist()


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.1, 0.5, 0.9])), max_size=30))
def test_places_within_clusters(rows):
    label, order = (np.array([row[n] for row in rows], kind) for n, kind in ((0, int), (1, float)))
    for number, place in enumerate(places_within(label, order)):
        before = [n for n in range(len(rows)) if label[n] == label[number] and (order[n], n) < (order[number], number)]
        assert place == len(before)


def test_a_hierarchy_takes_of_each_branch_alike():
    """Three broad themes, of which one holds 90 % of all: it gets a third."""
    themes = np.repeat([0, 1, 2], [900, 50, 50])
    rng = np.random.default_rng(0)
    parts = unit(60, 20, 3)[themes * 20 + rng.integers(0, 20, 1000)]
    vectors = 2 * unit(3, 20)[themes] + 0.7 * parts + 0.1 * unit(1000, 20, 2)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    levels = hierarchy(vectors, (60, 3), resamplings=3, nearest=4)
    share = quotas(levels, 90)
    assert share.sum() == 90
    by_theme = np.zeros(3, int)
    for number in np.flatnonzero(share):
        by_theme[np.bincount(themes[levels[0].label == number]).argmax()] += share[number]
    assert by_theme.min() >= 20


def test_quotas_of_one_level_are_a_flat_cap():
    level = Clustering(np.array([0] * 7 + [1] * 2 + [2] * 4), np.ones(13), np.eye(3, dtype=np.float32))
    assert quotas([level], 8).tolist() == [3, 2, 3]


def test_what_is_far_from_others_is_drawn_more_often():
    distance = np.repeat([0.1, 0.4], 2000)
    drawn = spread_out(distance, 400, 1.0, Key(0))
    assert len(np.unique(drawn)) == 400
    assert 0.74 < (drawn >= 2000).mean() < 0.86  # 4 to 1, and slightly fewer as they are used up
    assert set(spread_out(distance, 100, 1.0, Key(0))) <= set(drawn)
