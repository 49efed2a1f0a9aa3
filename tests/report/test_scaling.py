"""Along a numeric axis: laws that hold the truth as often as they say, none where the data carry none, and the best buys."""

import json

import fabricated
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from test_every_number import Page, assert_shows, numbers

from dinov2lab.report import scaling, tables
from dinov2lab.report.along import AXES, prices
from dinov2lab.report.render import write_report
from dinov2lab.report.scaling import EXPONENTS, Law, fit
from dinov2lab.spec.study import expand
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import Cost

LIMIT, GAIN = 0.8, -0.4


def sizes(count, factor=4):
    return 100.0 * factor ** np.arange(count)


def truth(x, exponent):
    return LIMIT + GAIN * (np.asarray(x) / 100) ** -exponent


def drawn(generator, x, seeds, exponent, own, shared):
    """(K, n) values; `shared`: what a seed does to all sizes alike."""
    noise = own * generator.normal(size=(len(x), seeds)) + shared * generator.normal(size=(1, seeds))
    return truth(x, exponent)[:, None] + noise


def holds(interval, value):
    return interval.low <= value <= interval.high


@settings(max_examples=40, deadline=None)
@given(st.floats(0.15, 2.0), st.integers(4, 7), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_a_law_is_found_again(exponent, count, seeds, seed):
    x = sizes(count, 3)
    law = fit(x, drawn(np.random.default_rng(seed), x, seeds, exponent, 1e-5, 1e-5), 0.05)
    assert law.exponent == pytest.approx(exponent, rel=2e-3)
    assert law.limit == pytest.approx(LIMIT, abs=0.02)
    assert law.forecast == pytest.approx(truth(2 * x[-1], exponent), abs=1e-3)


def test_it_is_the_least_squares_fit():
    """Of scipy, on all values at once: with equally many seeds everywhere it has the same minimum."""
    x, seeds = sizes(5), 3
    table = drawn(np.random.default_rng(7), x, seeds, 0.5, 0.01, 0.02)
    flat = np.repeat(x, seeds), table.ravel()
    found, _ = optimize.curve_fit(lambda x, a, b, c: a + b * (x / 100) ** -c, *flat, p0=(0.7, -0.3, 0.3), xtol=1e-12)
    law = fit(x, table, 0.05)
    assert (law.limit, law.gain, law.exponent) == pytest.approx(tuple(found), rel=1e-3)
    assert law.at(x) == pytest.approx(table.mean(axis=1), abs=0.02)


@pytest.mark.parametrize(
    ("count", "seeds", "exponent", "own", "shared"),
    [(4, 3, 0.5, 0.01, 0.01), (4, 3, 0.3, 0.005, 0.02), (5, 5, 1.0, 0.01, 0.0)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(count, seeds, exponent, own, shared):
    generator, x, studies = np.random.default_rng(count * seeds), sizes(count), 400
    laws = [fit(x, drawn(generator, x, seeds, exponent, own, shared), 0.05) for _ in range(studies)]
    least = 0.95 - 3.3 * np.sqrt(0.05 * 0.95 / studies)  # three standard errors and a bit
    assert np.mean([holds(law.exponent_interval, exponent) for law in laws]) > least
    assert np.mean([law.limit_interval is None or holds(law.limit_interval, LIMIT) for law in laws]) > least
    assert np.mean([holds(law.forecast_interval, truth(law.ahead, exponent)) for law in laws]) > least
    assert np.mean([law.misfit < scaling.MISFIT for law in laws]) < 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / studies)
    assert np.mean([bool(law.refusal) for law in laws]) < 0.1, "what the data carry is not refused"


def test_without_an_end_in_sight_no_limit_is_told():
    """A logarithm has none."""
    x, generator = sizes(5), np.random.default_rng(0)
    noise = 0.01 * generator.normal(size=(200, 5, 3))
    laws = [fit(x, 0.2 + 0.05 * np.log(x)[:, None] + each, 0.05) for each in noise]
    assert np.mean([law.limit_interval is None for law in laws]) > 0.9
    assert all(law.exponent_interval.low >= EXPONENTS[0] for law in laws)


def test_what_the_data_do_not_carry_is_refused_in_words():
    generator = np.random.default_rng(0)
    x = sizes(5)
    peak = fit(x, np.array([0.2, 0.5, 0.6, 0.5, 0.2])[:, None] + 0.01 * generator.normal(size=(5, 3)), 0.05)
    assert "depart from a power law" in peak.refusal
    assert peak.misfit < 1e-4
    flat = fit(x, 0.5 + 0.05 * generator.normal(size=(5, 2)), 0.05)
    assert isinstance(flat, Law)
    assert flat.refusal
    assert "three parameters" in fit(x[:3], np.ones((3, 3)), 0.05)
    assert "one seed" in fit(x, np.ones((5, 1)), 0.05)
    assert "to the last digit" in fit(x, truth(x, 0.5)[:, None] * np.ones((1, 3)), 0.05)


# In a report


ARMS, SEEDS = ("a", "b", "c", "d", "e"), 4


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Five arms that see more and more images; the last but one, dearer than the third, is worse than it."""
    folder = tmp_path_factory.mktemp("axis")
    workspace, generator = Workspace(folder / "lab"), np.random.default_rng(1)
    study = fabricated.study(arms=ARMS, seeds=SEEDS).model_copy(update={"axis": "images_seen", "equal": "nothing"})
    for cell in expand(study):
        place, run = ARMS.index(cell.arm), workspace.run(cell.run)
        images = 10_000 * 3**place
        knn = float(truth(images / 100, 0.4)) + 0.004 * float(generator.normal())
        linear = 0.4 + 0.02 * float(generator.normal()) - 0.1 * (place == 3)
        fabricated.start(workspace, cell, 5)
        fabricated.finish(workspace, cell, **{"test/knn": knn, "test/linear": linear})
        cost = Cost(images=images, flops=10**9 * images, seconds=100.0 * 2**place, peak_memory_mb=1.0)
        run.write_outcome(run.outcome().model_copy(update={"cost": cost}))
        with run.vitals.open("a") as file:  # two rows, of a run that is the cheaper the larger it is
            file.writelines(json.dumps({"system/gpu_energy_joules": 9e6 / 2**place}) + "\n" for _ in range(2))
    decide = study.decide.model_copy(update={"metric": "test/linear"})
    write_report(study.model_copy(update={"decide": decide}), workspace, folder / "x")
    return folder / "x"


@pytest.fixture(scope="module")
def found(out):
    last = pd.read_csv(out / "results.csv").sort_values("step").groupby(["metric", "arm", "seed"]).value.last()
    return {metric: last[metric].unstack().loc[list(ARMS)] for metric in last.index.get_level_values(0).unique()}


def rows(out, section):
    page = Page((out / "index.html").read_text())
    (table,) = [rows for where, rows in page.tables if where == section]
    return [row for row in table if row.strip()], page


def test_every_number_of_the_laws_is_recomputed_from_the_table(out, found):
    shown, page = rows(out, "along")
    x = found["cost/images"].mean(axis=1).to_numpy()
    for row, metric in zip(shown, ("test/knn", "test/linear"), strict=True):
        law = fit(x, found[metric].to_numpy(), 0.05)
        limit = [100 * each for each in (law.limit, *(min(1, max(0, end)) for end in law.limit_interval or ()))]
        told = [*(limit if law.limit_interval else ()), law.exponent, *law.exponent_interval, law.misfit]
        if not law.refusal:
            told += [100 * law.forecast, *(100 * end for end in law.forecast_interval)]
        assert_shows(row, told)
    assert fit(x, found["test/knn"].to_numpy(), 0.05).refusal == ""
    assert "no forecast: " in shown[1]
    labels = [label for section, label in page.labels if section == "along"]
    assert len(labels) == 2
    for metric, label in zip(("test/knn", "test/linear"), labels, strict=True):
        means = 100 * found[metric].mean(axis=1).to_numpy()
        shown_means = [value for value, _ in numbers(label.partition(". ")[2])][1::4]
        assert shown_means == pytest.approx(means, abs=0.051)
        assert AXES["images_seen"] in label


def test_the_front_is_the_one_found_by_looking_at_every_pair(out, found):
    shown, _ = rows(out, "front")
    good = found["test/linear"].mean(axis=1)
    costs = {
        "images seen": found["cost/images"].mean(axis=1),
        "FLOPs": found["cost/flops"].mean(axis=1),
        "hours of training": found["cost/seconds"].mean(axis=1),
        "kWh": found["cost/gpu_kwh"].mean(axis=1),
    }
    for arm, row in zip(ARMS, shown, strict=True):
        for name, cost in costs.items():
            beaten = any(cost[o] <= cost[arm] and good[o] >= good[arm] and o != arm for o in ARMS)
            assert (name in row) == (not beaten), (arm, name)
    assert not any(name in shown[3] for name in list(costs)[:3]), "the fourth arm is worse than cheaper ones"
    assert found["cost/gpu_kwh"].loc["a"].tolist() == [5.0] * SEEDS
    energies = [numbers(row)[5] for row in rows(out, "cost")[0]]
    assert [value for value, _ in energies] == pytest.approx(found["cost/gpu_kwh"].mean(axis=1), abs=0.005)


def test_energy_is_a_price_only_where_the_same_parts_of_every_arms_machines_told_of_it():
    def cost(**energy):
        return tables.Cost("x", 1, 1.0, 1.0, 1.0, 1.0, None, energy)

    assert "energy" in prices([cost(gpu=1.0), cost(gpu=2.0)])
    for costs in ([cost(gpu=1.0), cost()], [cost(gpu=1.0), cost(gpu=1.0, cpu=1.0)], [cost(), cost()]):
        assert prices(costs) == ("images", "flops", "hours")


def test_the_markdown_and_the_files_have_them_too(out):
    text = (out / "report.md").read_text()
    assert "## Along images seen" in text
    assert "## Quality for its cost" in text
    assert "no forecast: " in text
    for name in ("along-1", "along-2", "front-1", "front-2", "front-3"):
        assert f"figures/{name}.svg" in text
        assert (out / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(json.loads((out / "verdict.json").read_text())) == 2 * (len(ARMS) - 1)


def test_arms_of_one_cost_and_no_axis_have_neither(tmp_path):
    workspace, study = Workspace(tmp_path / "lab"), fabricated.study()
    for cell in expand(study):
        fabricated.start(workspace, cell, 5)
        fabricated.finish(workspace, cell)
    write_report(study, workspace, tmp_path / "x")
    page = (tmp_path / "x/index.html").read_text()
    assert 'id="along"' not in page
    assert 'id="front"' not in page
