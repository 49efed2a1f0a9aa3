"""Intervals that hold, claims that are as rare and powers as large as they say they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dinov2lab.report.statistics import (
    mean_of,
    paired_difference,
    paired_scale,
    power,
    resolvable_effect,
    separates,
    t_interval,
)

STUDIES = 20_000
MONTE_CARLO = 3.3 * np.sqrt(0.05 * 0.95 / STUDIES)  # three standard errors and a bit
values = st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6)


def any_claim(differences: np.ndarray, alpha: float) -> float:
    """Share of studies with at least one claim; differences (studies, comparisons, n)."""
    low, high = t_interval(differences, alpha, differences.shape[1])
    return float(((low > 0) | (high < 0)).any(axis=1).mean())


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_one_comparison_is_the_paired_t_test(n):
    generator = np.random.default_rng(n)
    arm, baseline = generator.normal(0.6, 0.02, n), generator.normal(0.58, 0.02, n)
    reference = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
    ours = paired_difference(arm, baseline, alpha=0.05, comparisons=1)
    assert ours.n == n
    assert ours.estimate == pytest.approx((arm - baseline).mean())
    assert ours.interval == pytest.approx((reference.low, reference.high))


def test_an_arms_own_interval_is_the_one_sample_t_interval():
    sample = [0.61, 0.58, 0.64, 0.60]
    reference = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert mean_of(sample, 0.05).interval == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_one_comparison_of_equal_arms_claims_at_the_stated_rate(n):
    differences = np.random.default_rng(n).normal(size=(STUDIES, 1, n))
    assert any_claim(differences, 0.05) == pytest.approx(0.05, abs=MONTE_CARLO)


@pytest.mark.parametrize(("arms", "n"), [(3, 3), (4, 3), (9, 5)])
def test_studies_of_equal_arms_hardly_ever_claim_anything(arms, n):
    scores = np.random.default_rng(arms).normal(size=(STUDIES, arms, n)) * np.linspace(1, 3, arms)[:, None]
    differences = scores[:, 1:] - scores[:, :1]  # one baseline for all: the comparisons are correlated
    rate = any_claim(differences, 0.05)
    assert rate <= 0.05 + MONTE_CARLO
    assert rate > 0.01, "and it is not so careful that nothing could ever be claimed"


@pytest.mark.parametrize(("n", "comparisons"), [(2, 1), (3, 1), (3, 3), (5, 8), (10, 2)])
def test_a_planted_effect_of_the_resolvable_size_is_found_four_times_in_five(n, comparisons):
    effect = resolvable_effect(n, paired_scale(n, 0.05, comparisons))
    differences = np.random.default_rng(n).normal(effect, 1, size=(STUDIES, n))
    low, high = t_interval(differences, 0.05, comparisons)
    assert ((low > 0) | (high < 0)).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("effect", "n"), [(0.5, 5), (1.0, 10), (2.0, 5)])
def test_power_is_the_tail_of_the_non_central_t(effect, n):
    bound, shift = paired_scale(n, 0.05).critical, effect * np.sqrt(n)
    reference = stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)
    assert power(effect, n, paired_scale(n, 0.05)) == pytest.approx(reference, abs=2e-4)


def test_the_interval_of_the_resolvable_difference_holds_the_one_of_the_true_spread():
    generator, true = np.random.default_rng(0), 0.02 * resolvable_effect(4, paired_scale(4, 0.05, 2))
    inside = 0
    for _ in range(1000):
        got = paired_difference(generator.normal(0, 0.02, 4), np.zeros(4), 0.05, 2).resolvable_interval
        inside += got.low <= true <= got.high
    assert inside / 1000 == pytest.approx(0.95, abs=0.025)


@given(values, values, st.floats(-0.5, 0.5))
def test_a_constant_on_all_seeds_of_an_arm_shifts_the_difference_and_nothing_else(arm, baseline, constant):
    before = paired_difference(arm, baseline, 0.05, 3)
    after = paired_difference([value + constant for value in arm], baseline, 0.05, 3)
    assert after.estimate == pytest.approx(before.estimate + constant, abs=1e-9)
    if before.interval and after.interval:
        shifted = (before.interval.low + constant, before.interval.high + constant)
        assert after.interval == pytest.approx(shifted, abs=1e-7)
        assert after.resolvable == pytest.approx(before.resolvable, abs=1e-7)


@given(values, values)
def test_swapping_the_arms_flips_the_sign(arm, baseline):
    one, other = paired_difference(arm, baseline, 0.05, 2), paired_difference(baseline, arm, 0.05, 2)
    assert one.estimate == pytest.approx(-other.estimate)
    flipped = {"better": "worse", "worse": "better", "not separable": "not separable", "none": "none"}
    assert separates(one, higher_is_better=True) == flipped[separates(other, higher_is_better=True)]
    assert separates(one, higher_is_better=True) == separates(other, higher_is_better=False)


@given(values, values, st.integers(1, 8))
def test_more_comparisons_never_make_an_interval_narrower(arm, baseline, comparisons):
    few, many = (paired_difference(arm, baseline, 0.05, count) for count in (comparisons, comparisons + 1))
    if few.interval and many.interval:
        assert many.interval.low <= few.interval.low
        assert few.interval.high <= many.interval.high
        assert few.resolvable <= many.resolvable


def test_one_seed_has_a_difference_and_no_interval():
    one = paired_difference([0.7], [0.6], 0.05, 1)
    assert one.estimate == pytest.approx(0.1)
    assert one.interval is None
    assert separates(one, higher_is_better=True) == "none"


def test_equal_differences_in_every_seed_carry_no_interval():
    same = paired_difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], 0.05, 1)
    shifted = paired_difference([0.6, 0.7, 0.8], [0.5, 0.6, 0.7], 0.05, 1)
    assert same.exact
    assert separates(same, higher_is_better=True) == "not separable"
    assert shifted.exact
    assert separates(shifted, higher_is_better=True) == "none"


def test_a_value_that_is_no_number_leaves_no_difference():
    broken = paired_difference([0.5, float("nan")], [0.4, 0.4], 0.05, 1)
    assert (broken.n, broken.estimate, broken.interval) == (2, None, None)
    assert separates(broken, higher_is_better=True) == "none"
