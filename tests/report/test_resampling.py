"""Rules about another middle than the mean: they hold their level, and say in a report what they are about."""

import re

import numpy as np
import pandas as pd
import pytest
from reported import draw, make_study, write_run
from scipy import stats

from dinov2lab.report.render import write_report
from dinov2lab.report.resampling import (
    DRAWN,
    IQM,
    MEDIAN,
    SIGN_FLIP,
    iqm_difference,
    judged_by,
    least_found,
    median_difference,
    shares,
)
from dinov2lab.report.statistics import paired_difference, paired_scale, separates
from dinov2lab.spec.study import Decide, Study

ROUNDS = 4000
MONTE_CARLO = 3.3 * np.sqrt(0.05 * 0.95 / ROUNDS)


def zeros(values):
    return [0.0] * len(values)


@pytest.mark.parametrize("n", [6, 9, 20, 200])
def test_the_interval_of_a_median_is_that_of_the_quantile_test(n):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    found = median_difference(values.tolist(), zeros(values), 0.05, 1)
    reference = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert found.estimate == pytest.approx(np.median(values))
    assert found.interval == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize("n", [6, 9, 20])
def test_a_median_is_missed_as_rarely_as_signs_say_however_lopsided_the_differences_are(n):
    values = np.random.default_rng(n).exponential(size=(ROUNDS, n)) - np.log(2)
    intervals = [median_difference(each.tolist(), zeros(each), 0.05, 1).interval for each in values]
    missed = np.mean([low > 0 or high < 0 for low, high in intervals])
    tail = max(count for count in range(n) if 2 * stats.binom.cdf(count, n, 0.5) <= 0.05)
    assert missed == pytest.approx(2 * stats.binom.cdf(tail, n, 0.5), abs=MONTE_CARLO)
    assert missed <= 0.05 + MONTE_CARLO


def test_a_share_is_what_a_value_counts_in_the_trimmed_mean_of_seeds_drawn_again():
    values = np.sort(np.random.default_rng(3).normal(size=11))
    drawn = np.random.default_rng(11).integers(0, 11, (DRAWN, 11))
    assert shares(11, 2) @ values == pytest.approx(stats.trim_mean(values[drawn], 0.25, axis=1))


def moved(values, n, alpha=0.05):
    """Whether the interval of each row, of differences about zero, leaves zero out: all at once."""
    ordered, cut = np.sort(values, axis=1), n // 4
    deviation = np.concatenate([(part @ shares(n, cut).T).std(axis=1) for part in np.array_split(ordered, 10)])
    reach = paired_scale(n, alpha).critical * deviation * np.sqrt(n / (n - 1))
    return np.abs(ordered[:, cut : n - cut].mean(axis=1)) > reach


@pytest.mark.parametrize("n", [5, 8, 12, 30])
@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_equal_arms_are_told_apart_by_their_interquartile_mean_no_more_often_than_stated(n, kind):
    generator = np.random.default_rng(n)
    values = generator.normal(size=(ROUNDS, n)) if kind == "normal" else generator.standard_t(2, size=(ROUNDS, n))
    for alpha in (0.05, 0.0125):
        claims = moved(values, n, alpha)
        assert claims.mean() <= alpha + 3.3 * np.sqrt(alpha * (1 - alpha) / ROUNDS)
    told = [
        separates(iqm_difference(each.tolist(), zeros(each), 0.0125, 1), higher_is_better=True) for each in values[:50]
    ]
    assert [claim != "not separable" for claim in told] == claims[:50].tolist()


def test_percentiles_of_seeds_drawn_again_would_claim_too_often():
    """Why the interval is no percentile interval."""
    values = np.sort(np.random.default_rng(0).normal(size=(ROUNDS, 6)), axis=1)
    again = np.quantile(values @ shares(6, 1).T[:, :2000], (0.025, 0.975), axis=1)
    assert ((again[0] > 0) | (again[1] < 0)).mean() > 0.08


def test_one_wild_seed_hides_a_difference_from_the_mean_alone():
    values = [0.021, 0.019, 0.022, 0.018, 0.02, 0.023, 0.017, -0.6]
    assert separates(paired_difference(values, zeros(values), 0.05, 1), higher_is_better=True) == "not separable"
    for rule in (median_difference, iqm_difference):
        assert rule(values, zeros(values), 0.05, 1).estimate == pytest.approx(0.02, abs=0.001)
    assert separates(iqm_difference(values[:-1], zeros(values[:-1]), 0.05, 1), higher_is_better=True) == "better"


@pytest.mark.parametrize(("rule", "n", "alpha"), [(SIGN_FLIP, 8, 0.05), (MEDIAN, 9, 0.05), (IQM, 12, 0.0125)])
def test_a_planted_effect_of_the_resolvable_size_is_found_four_times_in_five(rule, n, alpha):
    planted = np.random.default_rng(1).normal(least_found(rule, n, alpha), 1, size=(1000, n))
    found = [judged_by(rule, each.tolist(), zeros(each), alpha, 1).interval.low > 0 for each in planted]
    assert np.mean(found) == pytest.approx(0.8, abs=3.3 * np.sqrt(0.16 / 1000) + 0.02)  # and what it was simulated with


@pytest.mark.parametrize("n", [6, 15, 40])
def test_what_a_median_can_find_is_what_its_signs_say(n):
    tail = max(count for count in range(n) if 2 * stats.binom.cdf(count, n, 0.5) <= 0.05)
    found = stats.binom.cdf(tail, n, stats.norm.cdf(-least_found(MEDIAN, n, 0.05)))
    assert found == pytest.approx(0.8, abs=3.3 * np.sqrt(0.16 / 1000))


def test_a_resolvable_difference_is_in_the_unit_of_the_metric():
    values = np.random.default_rng(7).normal(size=9)
    one, ten = (median_difference((scale * values).tolist(), zeros(values), 0.05, 1) for scale in (1, 10))
    assert one.resolvable == pytest.approx(least_found(MEDIAN, 9, 0.05) * values.std(ddof=1))
    assert one.resolvable_interval.low < one.resolvable < one.resolvable_interval.high
    assert ten.resolvable == pytest.approx(10 * one.resolvable)


@pytest.mark.parametrize("rule", [median_difference, iqm_difference])
def test_no_spread_no_number_and_no_seed_carry_no_interval(rule):
    same, broken, none = (rule(each, zeros(each), 0.05, 1) for each in ([0.1] * 6, [0.1] * 5 + [float("nan")], []))
    assert (same.exact, same.interval, same.estimate) == (True, None, pytest.approx(0.1))
    assert (broken.estimate, broken.interval, broken.exact) == (None, None, False)
    assert (none.n, none.interval) == (0, None)
    assert not rule([0.1, 0.2, 0.3], [0.0] * 3, 0.05, 1).exact


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("iqm", r"decide\.rule iqm: 4 seeds, and it takes 5"),
        ("median", r"decide\.rule median: 4 seeds reach p = 0\.12"),
    ],
)
def test_too_few_seeds_are_refused_before_anything_runs(rule, words):
    study = make_study((0, 1, 2, 3)).model_dump()
    with pytest.raises(ValueError, match=words):
        Study.model_validate(study | {"decide": Decide(metric="test/knn", rule=rule).model_dump()})


def test_a_report_says_what_its_intervals_are_of(fabricate, tmp_path):
    made = fabricate(tuple(range(6)), run=False, decide=Decide(metric="test/knn", rule="iqm", looks=1))
    for cell in made.cells:
        finals = draw(cell, labels=True)[1]
        wild = 0.4 if (cell.arm, cell.seed) == ("retrieved", 3) else 0.0
        write_run(made.workspace, cell, metrics=finals | {"test/knn": finals["test/knn"] - wild})
    report = write_report(made.study, made.workspace, tmp_path / "x")
    table = pd.read_csv(tmp_path / "x" / "results.csv")
    last = table[table.metric == "test/knn"].pivot_table(index="arm", columns="seed", values="value", aggfunc="last")
    differences = (last.loc["retrieved"] - last.loc["uncurated"]).to_numpy()
    row = next(row for row in report.rows if (row.metric, row.arm) == ("test/knn", "retrieved"))
    assert row.difference == pytest.approx(stats.trim_mean(differences, 0.25))
    error = stats.bootstrap(
        (differences,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).standard_error
    reach = stats.t.isf(0.05 / 4, 5) * error * np.sqrt(6 / 5)  # two comparisons
    assert (row.high - row.low) / 2 == pytest.approx(reach, rel=0.05)
    assert "95 % interval of the interquartile mean" in row.words
    page = re.sub(r"<[^>]*>", "", (tmp_path / "x" / "index.html").read_text())
    assert "Difference to uncurated, pointsinterquartile mean, 95 %, paired, simultaneous" in page.replace(
        "\u00a0", " "
    )
    assert "Diamond: interquartile mean;" in page
    assert "points (interquartile mean, 95 %, simultaneous)" in (tmp_path / "x" / "report.md").read_text()
