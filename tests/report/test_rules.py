"""The rules that studies decide by: they hold their level where they say so, and find what they say they would."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import make_study, write_failure, write_run
from scipy import stats

from dinov2lab.report.render import write_report
from dinov2lab.report.resampling import sign_flip_difference, subsets
from dinov2lab.report.statistics import (
    blocked_differences,
    blocked_scale,
    dunnett_quantile,
    effect_interval,
    paired_difference,
    paired_scale,
    power,
    resolvable_effect,
    seeds_needed,
    separates,
    t_interval,
)
from dinov2lab.spec.study import Decide, Study, expand

STUDIES = 10_000
MONTE_CARLO = 3.3 * np.sqrt(0.05 * 0.95 / STUDIES)  # three standard errors and a bit: 4.3 to 5.7 per cent


def claims(scores: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """(studies, arms - 1) whether each arm is told from the first one by the rule `blocked`; scores (studies, arms, n)."""
    arms, n = scores.shape[1:]
    mean = scores.mean(axis=(1, 2), keepdims=True)
    residuals = scores - scores.mean(axis=2, keepdims=True) - scores.mean(axis=1, keepdims=True) + mean
    scale = blocked_scale(arms, n, alpha, arms - 1)
    sd = np.sqrt(2 * (residuals**2).sum(axis=(1, 2)) / scale.df)
    differences = (scores[:, 1:] - scores[:, :1]).mean(axis=2)
    return np.abs(differences) > scale.critical * sd[:, None] / np.sqrt(n)


def test_the_simulation_decides_as_the_rule_does():
    scores = np.random.default_rng(0).normal([[0.0], [0.8], [1.6], [-2.0]], 0.6, size=(40, 4, 3))
    simulated = claims(scores)
    for study, told in zip(scores, simulated, strict=True):
        ruled = [separates(each, higher_is_better=True) for each in blocked_differences(study[1:], study[0], 0.05, 3)]
        assert [claim != "not separable" for claim in ruled] == told.tolist()
    assert 0 < simulated.sum() < simulated.size


@pytest.mark.parametrize(("comparisons", "df"), [(2, 2), (3, 6), (7, 14)])
def test_quantiles_are_those_of_the_multivariate_t(comparisons, df):
    bound = dunnett_quantile(comparisons, df, 0.05)
    shape = np.full((comparisons, comparisons), 0.5) + 0.5 * np.eye(comparisons)
    joint = stats.multivariate_t(shape=shape, df=df, seed=np.random.default_rng(1))
    corner = np.full(comparisons, bound)
    assert joint.cdf(corner, lower_limit=-corner, maxpts=400_000) == pytest.approx(0.95, abs=1.5e-3)


@pytest.mark.parametrize(("arms", "n"), [(2, 3), (3, 3), (4, 3), (4, 5), (8, 2)])
def test_equal_arms_are_told_apart_at_the_stated_rate(arms, n):
    generator = np.random.default_rng(arms * n)
    scores = generator.normal(size=(STUDIES, arms, n)) + 5 * generator.normal(size=(STUDIES, 1, n))  # seeds differ
    assert claims(scores).any(axis=1).mean() == pytest.approx(0.05, abs=MONTE_CARLO)


def test_where_one_arm_scatters_far_more_the_rule_is_no_longer_exact():
    """Why the rule must be chosen with care, and the report says what it assumes."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(STUDIES, 4, 3)) * np.array([3.0, 1.0, 1.0, 1.0])[:, None]
    assert 0.06 < claims(scores).any(axis=1).mean() < 0.25


@pytest.mark.parametrize(("arms", "n"), [(2, 3), (4, 3), (4, 5)])
def test_a_planted_effect_of_the_resolvable_size_is_found_four_times_in_five(arms, n):
    effect = resolvable_effect(n, blocked_scale(arms, n, 0.05, arms - 1)) * np.sqrt(2)  # of one run's deviation
    scores = np.random.default_rng(n).normal(size=(STUDIES, arms, n))
    scores[:, 1] += effect
    assert claims(scores)[:, 0].mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("arms", "n"), [(2, 4), (4, 3), (4, 6)])
@pytest.mark.parametrize("effect", [0.7, 1.5, 3.0])
def test_any_planted_effect_is_found_as_often_as_predicted(arms, n, effect):
    scores = np.random.default_rng(n).normal(size=(STUDIES, arms, n))
    scores[:, 1] += effect
    predicted = power(effect / np.sqrt(2), n, blocked_scale(arms, n, 0.05, arms - 1))
    assert claims(scores)[:, 0].mean() == pytest.approx(predicted, abs=0.02)
    differences = scores[:, 1] - scores[:, 0]
    low, high = t_interval(differences, 0.05, arms - 1)
    predicted = power(effect / np.sqrt(2), n, paired_scale(n, 0.05, arms - 1))
    assert ((low > 0) | (high < 0)).mean() == pytest.approx(predicted, abs=0.02)


def test_two_looks_at_equal_arms_claim_no_more_than_one_would():
    """After three seeds, and again after three more, each at half of alpha."""
    scores = np.random.default_rng(5).normal(size=(STUDIES, 4, 6))
    looks = [claims(scores[:, :, :3], 0.025).any(axis=1), claims(scores, 0.025).any(axis=1)]
    rate = (looks[0] | looks[1]).mean()
    assert 0.03 < rate <= 0.05 + MONTE_CARLO
    unpaid = claims(scores[:, :, :3]).any(axis=1) | claims(scores).any(axis=1)
    assert unpaid.mean() > 0.06, "looking twice for the price of one is what this guards against"


@settings(deadline=None, max_examples=15)
@given(st.floats(0.3, 4.0), st.integers(2, 8), st.integers(1, 3))
def test_the_seeds_that_a_claim_needs_are_the_first_that_find_it(effect, n, comparisons):
    def scale(seeds):
        return paired_scale(seeds, 0.05, comparisons)

    found = seeds_needed(effect, n, scale)
    assert found > n
    assert power(effect, found, scale(found)) >= 0.8 - 1e-9
    assert found == n + 1 or power(effect, found - 1, scale(found - 1)) < 0.8
    assert seeds_needed(0.01, n, scale) is None


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_with_a_single_arm_the_rule_is_the_paired_t_interval(n, seed):
    arm, baseline = np.random.default_rng(seed).normal(size=(2, n)).tolist()
    (blocked,), paired = blocked_differences([arm], baseline, 0.05, 1), paired_difference(arm, baseline, 0.05, 1)
    assert blocked.interval == pytest.approx(paired.interval)
    assert blocked.resolvable == pytest.approx(paired.resolvable)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_what_a_seed_does_to_all_arms_alike_changes_nothing(seed, shift):
    table = np.random.default_rng(seed).normal(size=(4, 3))
    moved = table + np.array([shift, -shift, 0.5 * shift])
    for before, after in zip(
        *(blocked_differences(each[1:], each[0], 0.05, 3) for each in (table, moved)), strict=True
    ):
        assert after.interval == pytest.approx(before.interval, abs=1e-9)


def test_an_arm_with_a_value_that_is_no_number_leaves_the_others_their_interval():
    broken, sound = blocked_differences([[0.5, float("nan")], [0.7, 0.9]], [0.4, 0.5], 0.05, 2)
    assert (broken.estimate, broken.interval) == (None, None)
    assert sound.interval is not None
    assert blocked_differences([[0.5, 0.6]], [0.4, float("nan")], 0.05, 1)[0].interval is None


def test_one_seed_and_equal_values_carry_no_interval():
    (one,) = blocked_differences([[0.7]], [0.6], 0.05, 1)
    assert (one.estimate, one.interval) == (pytest.approx(0.1), None)
    (same,) = blocked_differences([[0.5, 0.6]], [0.5, 0.6], 0.05, 1)
    assert same.exact


@settings(max_examples=30, deadline=None)
@given(st.integers(7, 10), st.integers(0, 2**32 - 1))
def test_sign_flip_intervals_hold_what_the_permutation_test_does_not_reject(n, seed):
    differences = np.random.default_rng(seed).normal(0.4, 1, n)
    interval = sign_flip_difference(differences.tolist(), [0.0] * n, 0.05, 1).interval
    assert interval is not None
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)

    def p(shift: float) -> float:
        sums = signs @ (differences - shift)
        return float((np.abs(sums) >= abs((differences - shift).sum()) - 1e-12).mean())

    inside, outside = interval.low + 1e-6, interval.low - 1e-6
    assert p(inside) > 0.05 - 2 / 2**n
    assert p(outside) <= 0.05
    assert p(interval.high + 1e-6) <= 0.05


@pytest.mark.parametrize("n", [7, 9])
def test_sign_flip_claims_at_no_more_than_its_level_also_for_heavy_tails(n):
    generator = np.random.default_rng(n)
    found = 0
    for differences in generator.standard_t(2, size=(2000, n)):
        low, high = sign_flip_difference(differences.tolist(), [0.0] * n, 0.05, 1).interval
        found += low > 0 or high < 0
    assert found / 2000 <= 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / 2000)
    assert found / 2000 > 0.02


@pytest.mark.parametrize("n", [17, 40])
def test_of_many_seeds_random_subsets_hold_the_level_as_all_of_them_do(n):
    """The middle of a heavy-tailed distribution is in the interval at the stated rate, neither less nor much more often."""
    members, studies = subsets(n), 2000
    assert members.shape[1] == n
    assert len(np.unique(members, axis=0)) == len(members) > 50_000
    tail, weights = int(0.05 * (len(members) + 1) / 2), members.T.astype(np.float32)
    differences = np.random.default_rng(n).standard_t(2, size=(studies, n))
    differences.sort(axis=1)
    sums = (each.astype(np.float32) @ weights for each in np.split(differences, 20))
    below = np.concatenate([(each < 0).sum(axis=1) for each in sums])
    outside = (below < tail) | (below > len(members) - tail)
    assert outside.mean() == pytest.approx(0.05, abs=3.3 * np.sqrt(0.05 * 0.95 / studies))
    interval = sign_flip_difference(differences[0].tolist(), [0.0] * n, 0.05, 1).interval
    means = np.sort(members @ differences[0] / members.sum(axis=1))
    assert interval == pytest.approx((means[tail - 1], means[-tail]))


@pytest.mark.parametrize(("rule", "seeds"), [("sign_flip", 7), ("iqm", 5)])
def test_where_failures_leave_too_few_seeds_no_claim_is_made(rule, seeds, fabricate, tmp_path):
    made = fabricate(tuple(range(seeds)), run=False, decide=Decide(metric="test/knn", rule=rule, looks=1))
    for cell in made.cells:
        write_failure(made.workspace, cell, "broken") if cell.seed == 1 else write_run(made.workspace, cell)
    report = write_report(made.study, made.workspace, tmp_path / "x")
    told = next(row for row in report.rows if (row.metric, row.arm) == ("test/knn", "retrieved"))
    assert (told.claim, told.low) == ("none", None)
    assert re.match(rf"no claim: \+[\d.]+ points, but {seeds - 1} seeds are too few for the rule {rule}", told.words)


def test_six_seeds_are_too_few_for_three_comparisons_by_sign_flips():
    assert sign_flip_difference([1.0, 2, 3, 4, 5, 6], [0.0] * 6, 0.05, 3).interval is None


def test_with_a_margin_an_interval_without_a_real_loss_says_no_worse():
    even = paired_difference([0.61, 0.60, 0.62, 0.61], [0.610, 0.602, 0.618, 0.612], 0.05, 1)
    assert separates(even, higher_is_better=True) == "not separable"
    assert separates(even, higher_is_better=True, margin=0.02) == "no worse"
    assert separates(even, higher_is_better=True, margin=1e-4) == "not separable"
    assert separates(even, higher_is_better=False, margin=0.02) == "no worse"
    better = paired_difference([0.71, 0.72, 0.70], [0.61, 0.615, 0.605], 0.05, 1)
    assert separates(better, higher_is_better=True, margin=0.02) == "better"


def test_a_margin_is_a_positive_amount():
    with pytest.raises(ValueError, match="margin"):
        Decide(metric="test/knn", margin=0.0)


def blocked(fabricate, **study):
    return fabricate(decide=Decide(metric="test/knn", rule="blocked", looks=1), **study)


def test_a_blocked_study_decides_by_the_spread_of_all_arms_and_says_so(fabricate, tmp_path):
    made = blocked(fabricate)
    write_report(made.study, made.workspace, tmp_path / "x")
    table = pd.read_csv(tmp_path / "x" / "results.csv")
    last = table[(table.metric == "test/knn")].pivot_table(index="arm", columns="seed", values="value", aggfunc="last")
    residuals = last.sub(last.mean(axis=1), axis=0).sub(last.mean(axis=0), axis=1) + last.to_numpy().mean()
    spread = np.sqrt((residuals.to_numpy() ** 2).sum() / 4)  # (3 arms - 1) x (3 seeds - 1) degrees of freedom
    reach = dunnett_quantile(2, 4, 0.05) * spread * np.sqrt(2 / 3)
    rows = json.loads((tmp_path / "x" / "verdict.json").read_text())
    for row in (row for row in rows if row["metric"] == "test/knn"):
        difference = (last.loc[row["arm"]] - last.loc["uncurated"]).mean()
        assert row["difference"] == pytest.approx(difference)
        assert (row["low"], row["high"]) == pytest.approx((difference - reach, difference + reach))
    for file in ("index.html", "report.md"):
        text = (tmp_path / "x" / file).read_text().replace("\n", " ")
        assert "Dunnett" in text
        assert "seeds scatter alike in all arms" in text
        assert "Bonferroni" not in text


def test_a_seed_that_one_arm_lost_is_left_out_of_the_blocks_and_named(fabricate, tmp_path):
    made = blocked(fabricate, run=False)
    for cell in made.cells:
        if (cell.arm, cell.seed) == ("deduplicated", 1):
            write_failure(made.workspace, cell, "the loss is nan at step 40")
        else:
            write_run(made.workspace, cell)
    report = write_report(made.study, made.workspace, tmp_path / "x")
    words = {row.arm: row.words for row in report.rows if row.metric == "test/knn"}
    assert "left out as failed: deduplicated seed 1" in words["deduplicated"]
    assert "left out, as other arms failed there: seed 1" in words["retrieved"]


def test_an_arm_that_failed_altogether_leaves_the_others_their_seeds(fabricate, tmp_path):
    made = blocked(fabricate, run=False)
    for cell in made.cells:
        fails = cell.arm == "deduplicated"
        write_failure(made.workspace, cell, "broken") if fails else write_run(made.workspace, cell)
    report = write_report(made.study, made.workspace, tmp_path / "x")
    claims = {row.arm: row.claim for row in report.rows if row.metric == "test/knn"}
    assert claims["deduplicated"] == "none"
    assert "3 seeds" in next(row.words for row in report.rows if (row.metric, row.arm) == ("test/knn", "retrieved"))


def test_by_sign_flips_too_few_seeds_are_refused_before_anything_runs():
    study = make_study((0, 1, 2)).model_dump()
    study["decide"] |= {"rule": "sign_flip", "looks": 1}
    with pytest.raises(ValueError, match=r"3 seeds reach p = 0\.25 at best, and the study wants 0\.025"):
        Study.model_validate(study)
    study["seeds"] = tuple(range(7))
    assert Study.model_validate(study).decide.rule == "sign_flip"


def test_a_margin_is_told_in_points(fabricate, tmp_path):
    made = fabricate(decide=Decide(metric="test/knn", margin=0.2))
    report = write_report(made.study, made.workspace, tmp_path / "x")
    told = next(row for row in report.rows if (row.metric, row.arm) == ("test/knn", "deduplicated"))
    assert told.claim == "no worse"
    assert told.words.startswith("no worse than uncurated by 20.0 points: ")


@pytest.mark.parametrize("n", [7, 9])
def test_sign_flips_claim_for_equal_arms_at_the_rate_that_counting_signs_gives(n):
    """Decided all at once: the mean is beyond all but so many of those that other signs give."""
    differences = np.random.default_rng(n).normal(size=(STUDIES, n))
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    beyond = (np.abs(differences @ signs.T) >= np.abs(differences.sum(axis=1))[:, None] - 1e-12).mean(axis=1)
    tail = int(0.05 * 2**n / 2)
    found = beyond <= 2 * tail / 2**n
    assert found.mean() == pytest.approx(2 * tail / 2**n, abs=MONTE_CARLO)
    assert found.mean() <= 0.05 + MONTE_CARLO
    for each, told in zip(differences[:100], found, strict=False):
        claim = separates(sign_flip_difference(each.tolist(), [0.0] * n, 0.05, 1), higher_is_better=True)
        assert (claim != "not separable") == told


def test_seeds_of_their_own_for_the_claim_cost_nothing_of_alpha():
    """However the first look came out, for it shares no seed with the second; all seeds at all of alpha would be too many."""
    scores = np.random.default_rng(8).normal(size=(STUDIES, 4, 6))
    tempting = claims(scores[:, :, :3], 0.5).any(axis=1)
    assert claims(scores[tempting][:, :, 3:]).any(axis=1).mean() == pytest.approx(0.05, abs=1.6 * MONTE_CARLO)
    assert claims(scores[tempting]).any(axis=1).mean() > 0.06


@pytest.mark.parametrize(("n", "true"), [(3, 0.7), (6, 3.0)])
def test_the_interval_of_an_effect_size_holds_the_true_one_as_often_as_it_says(n, true):
    scale, sample = paired_scale(n, 0.05), np.random.default_rng(n).normal(true, 1, size=(400, n))
    intervals = [effect_interval(each.mean() / each.std(ddof=1), n, scale) for each in sample]
    inside = np.mean([low <= true <= high for low, high in intervals])
    assert inside == pytest.approx(0.95, abs=3.3 * np.sqrt(0.05 * 0.95 / 400))


@pytest.mark.parametrize(("effect", "n", "comparisons"), [(0.6, 5, 1), (-1.5, 4, 3), (2.0, 10, 7)])
def test_the_interval_of_an_effect_size_turns_the_non_central_t_round(effect, n, comparisons):
    low, high = effect_interval(effect, n, paired_scale(n, 0.05, comparisons))
    for end, share in ((low, 1 - 0.025 / comparisons), (high, 0.025 / comparisons)):
        assert stats.nct.cdf(effect * np.sqrt(n), n - 1, end * np.sqrt(n)) == pytest.approx(share, abs=3e-4)


@settings(deadline=None, max_examples=25)
@given(st.floats(-6, 6), st.integers(2, 9), st.integers(1, 4))
def test_an_effect_size_is_told_from_zero_where_the_difference_is(effect, n, comparisons):
    scale = paired_scale(n, 0.05, comparisons)
    low, high = effect_interval(effect, n, scale)
    assert low < effect < high or n == 2
    if abs(abs(effect) * np.sqrt(n) - scale.critical) > 1e-3 * scale.critical:
        assert (low > 0 or high < 0) == (abs(effect) * np.sqrt(n) > scale.critical)


def fresh(**more):
    return Decide(metric="test/knn", fresh=True, **more)


def test_a_study_that_tests_on_fresh_seeds_explores_first_and_then_decides_by_the_new_ones_alone(fabricate, tmp_path):
    first = fabricate((0, 1, 2), decide=fresh())
    told = write_report(first.study, first.workspace, tmp_path / "first")
    assert {row.claim for row in told.rows} == {"none"}
    assert "explored only" in told.headline
    assert "--more-seeds" in told.headline
    longer = first.study.with_more_seeds(3)
    assert (longer.tested, longer.alpha) == ((3, 4, 5), 0.05)
    for cell in expand(longer):
        write_run(first.workspace, cell)
    report = write_report(longer, first.workspace, tmp_path / "x")
    table = pd.read_csv(tmp_path / "x" / "results.csv")
    last = table[table.metric == "test/knn"].pivot_table(index="arm", columns="seed", values="value", aggfunc="last")
    differences = (last.loc["retrieved"] - last.loc["uncurated"])[[3, 4, 5]]
    row = next(row for row in report.rows if (row.metric, row.arm) == ("test/knn", "retrieved"))
    reach = stats.t.isf(0.05 / 4, 2) * stats.sem(differences)  # two comparisons
    assert (row.low, row.high) == pytest.approx((differences.mean() - reach, differences.mean() + reach))
    for file in ("index.html", "report.md"):
        text = (tmp_path / "x" / file).read_text()
        assert "on the seeds that are added after the first look alone, which explores (this is look 2" in text


def test_fresh_seeds_want_a_second_look_and_enough_of_them_for_the_rule():
    study = make_study((0, 1, 2)).model_dump()
    with pytest.raises(ValueError, match=r"decide\.fresh"):
        Study.model_validate(study | {"decide": fresh(looks=2).model_dump() | {"looks": 1}})
    flips = Study.model_validate(study | {"decide": fresh(rule="sign_flip").model_dump()})
    with pytest.raises(ValueError, match=r"sign_flip: 3 seeds reach p = 0\.25"):
        flips.with_more_seeds(3)
    assert flips.with_more_seeds(7).tested == tuple(range(3, 10))
