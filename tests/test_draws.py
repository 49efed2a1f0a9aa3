"""Keyed draws: uniform, independent of each other, and the same for ever."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dinov2lab.draws import Key, bits, permutation, torch_seed, uniforms

KEY = Key(0)
WORD = 2**64


def mixed(word: int) -> int:
    """SplitMix64's finaliser in whole numbers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB % WORD
    return word ^ word >> 31


def naive(seed: int, replicate: int, purpose: str, position: int, index: int) -> int:
    stream = int.from_bytes(hashlib.sha256(f"{seed}/{replicate}/{purpose}".encode()).digest()[:8], "little")
    golden = 0x9E3779B97F4A7C15
    return mixed((mixed((stream + golden * (position + 1)) % WORD) + golden * (index + 1)) % WORD)


def test_the_numbers_are_those_that_they_always_were():
    """Other numbers would be other images, crops, masks and initial weights for every run."""
    assert bits(KEY, "order/0", [0, 1], 2).tolist() == [
        [15840123572620583837, 10503284099762201403],
        [14442841850304966402, 4000422675411658189],
    ]
    assert uniforms(Key(3, 1), "view/global/0/crop", [7], 2).tolist() == [[0.4256401600408074, 0.7332642926856091]]
    assert permutation(KEY, "val", 10).tolist() == [1, 3, 0, 7, 9, 2, 4, 5, 6, 8]
    assert torch_seed(KEY, "weights") == 2210462957602232916


@given(st.integers(-5, 2**40), st.integers(0, 9), st.text(max_size=20), st.integers(0, 2**50), st.integers(0, 40))
def test_words_agree_with_the_generator_in_whole_numbers(seed, replicate, purpose, position, index):
    word = bits(Key(seed, replicate), purpose, [position], index + 1)[0, index]
    assert int(word) == naive(seed, replicate, purpose, position, index)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20), st.integers(1, 8))
def test_a_row_belongs_to_its_position_alone(positions, count):
    together = bits(KEY, "p", positions, count)
    assert together.shape == (len(positions), count)
    for row, position in enumerate(positions):
        assert (together[row] == bits(KEY, "p", [position], count + 3)[0, :count]).all()


def test_uniforms_are_uniform_along_positions_and_along_indices():
    table = uniforms(KEY, "p", np.arange(4000), 8)
    assert 0 <= table.min() <= table.max() < 1
    for values in (*table.T, uniforms(KEY, "p", [5], 4000)[0], table[::2].ravel(), table[:, 0] * 16 % 1):
        assert stats.kstest(values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("other", [(Key(1), "p"), (Key(0, 1), "p"), (KEY, "q"), (KEY, "p/0")])
def test_other_seeds_replicates_and_purposes_are_independent(other):
    ours, theirs = uniforms(KEY, "p", np.arange(4000), 4), uniforms(*other, np.arange(4000), 4)
    both = np.corrcoef(np.concatenate([ours, theirs], 1).T) - np.eye(8)
    assert np.abs(both).max() < 5 / np.sqrt(4000)  # five standard errors


def test_neighbouring_positions_and_indices_are_independent():
    table = uniforms(KEY, "p", np.arange(4000), 12)
    assert np.abs(np.corrcoef(table.T) - np.eye(12)).max() < 5 / np.sqrt(4000)
    for a, b in pairwise(range(12)):
        assert abs(np.corrcoef(table[:-1, a], table[1:, b])[0, 1]) < 5 / np.sqrt(4000)
    pairs = np.histogram2d(table[:-1, 0], table[1:, 0], bins=8, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 99), st.text(max_size=5))
def test_a_permutation_holds_every_index_once(size, seed, purpose):
    assert sorted(permutation(Key(seed), purpose, size).tolist()) == list(range(size))


def test_every_order_of_three_is_as_likely():
    orders = np.array([permutation(Key(seed), "p", 3) for seed in range(1200)])
    counts = np.unique(orders @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-4
