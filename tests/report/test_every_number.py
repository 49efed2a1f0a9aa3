"""Every number of a report is found again: those measured from results.csv alone, by other means than the report's own."""

import json
import math
import re
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from reported import ENVIRONMENT
from scipy import integrate, optimize, stats

from dinov2lab.report.render import write_report
from dinov2lab.report.words import title

SEEDS, ALPHA, LOOKS = (0, 1, 2, 3, 4), 0.05, 2
ARMS, BASELINE = ("uncurated", "deduplicated", "retrieved"), "uncurated"
METRICS = {"test/knn": "test kNN", "test/linear": "test linear probe", "health/rankme": "RankMe"}
REFERENCES = {"pixels": "raw pixels", "untrained": "the same network untrained"}
SECTIONS = {"header", "forest", "arms", "references", "metrics", "learning", "curation", "health", "cost", "method"}
SIZES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, " s": 1, " min": 60, " h": 3600}
DIGITS = r"([+−]?(?:\d{1,3}(?:\u202f\d{3})+|\d+)(?:\.\d+)?)(?:e([−+]?\d+))?"
NUMBER = re.compile(r"(?<![\w./-])(?<!\d:)" + DIGITS + r"(?:\u202f([kMGT])|( (?:s|min|h)\b))?(?!\w|:\d)")


def numbers(text):
    """(value, half a unit of its last digit) of each number that is shown, in order."""
    found = []
    for digits, exponent, size, unit in NUMBER.findall(text):
        plain = digits.replace("\u202f", "").replace("−", "-")
        scale = 10.0 ** int((exponent or "0").replace("−", "-")) * SIZES.get(size or unit, 1)
        found.append((float(plain) * scale, 0.5 * 10.0 ** -len(plain.partition(".")[2]) * scale))
    return found


def assert_shows(text, expected):
    shown = numbers(text)
    assert len(shown) == len(expected), f"{text!r} has not {len(expected)} numbers"
    for (value, reach), wanted in zip(shown, expected, strict=True):
        assert abs(value - wanted) <= 1.001 * reach + 1e-9, f"{value} in {text!r}: {wanted} is recomputed"


def assert_among(text, known):
    for value, reach in numbers(text):
        assert any(abs(value - each) <= 1.001 * reach + 1e-9 for each in known), f"{value} of {text!r} is from nowhere"


class Page(HTMLParser):
    """Prose, table cells and the labels of figures, each under its section."""

    def __init__(self, text):
        super().__init__()
        self.section, self.inside, self.table, self.depth = "header", "", None, []
        self.prose, self.tables, self.labels = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "section":
            self.section = given["id"]
        elif (tag, given.get("class")) == ("figure", "forest"):
            self.section = "forest"
        elif tag == "svg":
            self.labels.append((self.section, given["aria-label"]))
        elif tag == "table":
            self.table = []
            self.tables.append((self.section, self.table))
        elif tag == "tr":
            self.table.append("")
        if tag in ("svg", "style", "code", "thead"):
            self.depth.append(tag)

    def handle_endtag(self, tag):
        if self.depth and self.depth[-1] == tag:
            self.depth.pop()
        if tag == "table":
            self.table = None

    def handle_data(self, data):
        if set(self.depth) & {"svg", "style", "code"}:
            return
        data = data.replace("\u00a0", " ")
        if self.table and not self.depth:
            self.table[-1] += f" {data}"
        else:  # a table's head is prose
            self.prose[self.section] = self.prose.get(self.section, "") + f" {data}"


def scale(metric):
    return 100 if metric.startswith(("test/", "val/")) else 1


@cache
def smallest_effect(n, alpha):
    """Found four times in five: the tail of the noncentral t by quadrature over the estimated spread."""
    bound = stats.t.isf(alpha / 2, n - 1)

    def lacking(effect):
        def found(spread):
            reach, shift = bound * spread / math.sqrt(n - 1), effect * math.sqrt(n)
            return stats.chi.pdf(spread, n - 1) * (stats.norm.cdf(shift - reach) + stats.norm.cdf(-shift - reach))

        return integrate.quad(found, 0, 12)[0] - 0.8

    return optimize.brentq(lacking, 0.1, 8)


@cache
def standardized(t, n, alpha):
    """The effect that a t is of, and its interval: the noncentral t turned round, by quadrature over the spread."""

    def below(shift):
        def density(spread):
            return stats.chi.pdf(spread, n - 1) * stats.norm.cdf(t * spread / math.sqrt(n - 1) - shift)

        middle = shift / t * math.sqrt(n - 1)
        return integrate.quad(density, 0, 9, points=[middle] if 0 < middle < 9 else None)[0]

    reach = 10 + 5 * abs(t)
    ends = [optimize.brentq(lambda shift, q=q: below(shift) - q, -reach, reach) for q in (1 - alpha / 2, alpha / 2)]
    return [each / math.sqrt(n) for each in (t, *ends)]


class Recomputed:
    """From results.csv and the numbers of the study's file."""

    def __init__(self, file):
        self.table = pd.read_csv(file)
        last = self.table.sort_values("step").groupby(["arm", "metric", "seed"]).value.last()
        self.finals = {key: last.loc[key] for key in {(arm, metric) for arm, metric, _ in last.index}}

    def of(self, arm, metric):
        return self.finals[arm, metric].loc[list(SEEDS)].to_numpy() * scale(metric)

    def mean(self, values, alpha=ALPHA):
        reach = stats.t.isf(alpha / 2, len(values) - 1) * stats.sem(values) if np.ptp(values) > 1e-9 else None
        return [values.mean()] + ([values.mean() - reach, values.mean() + reach] if reach else [])

    def difference(self, arm, metric):
        return self.mean(self.of(arm, metric) - self.of(BASELINE, metric), ALPHA / LOOKS / (len(ARMS) - 1))

    def resolvable(self, arm, metric):
        n, alpha = len(SEEDS), ALPHA / LOOKS
        sd = np.std(self.of(arm, metric) - self.of(BASELINE, metric), ddof=1)
        ends = [math.sqrt((n - 1) / stats.chi2.isf(tail, n - 1)) for tail in (alpha / 2, 1 - alpha / 2)]
        return [smallest_effect(n, alpha / (len(ARMS) - 1)) * sd * end for end in (1, *ends)]

    def effect(self, arm, metric):
        """In standard deviations."""
        own = self.of(arm, metric) - self.of(BASELINE, metric)
        return standardized(own.mean() / stats.sem(own), len(own), ALPHA / LOOKS / (len(ARMS) - 1))

    def needed(self, arm, metric):
        """Seeds: one after the other, until the difference would be found."""
        own = self.of(arm, metric) - self.of(BASELINE, metric)
        effect, alpha = abs(own.mean()) / own.std(ddof=1), ALPHA / LOOKS / (len(ARMS) - 1)
        return next(n for n in range(len(SEEDS) + 1, 1001) if smallest_effect(n, alpha) <= effect)

    def gain(self, arm, reference):
        own = self.of(arm, "test/knn") - 100 * self.finals[arm, f"{reference}/test/knn"].loc[list(SEEDS)].to_numpy()
        return self.mean(own, ALPHA / len(ARMS))

    def reference(self, reference, metric):
        return scale(metric) * self.finals[BASELINE, f"{reference}/{metric}"].loc[list(SEEDS)].to_numpy()

    def row(self, arm, metric, *, resolvable=True):
        """Of an arm's table, as it is read from left to right."""
        found = self.mean(self.of(arm, metric))
        if arm != BASELINE:
            found += self.difference(arm, metric) + self.effect(arm, metric)
            found += self.resolvable(arm, metric) if resolvable else []
        found += [] if resolvable else [len(SEEDS)]
        return found + self.seeds(self.of(arm, metric))

    def reference_row(self, reference, metric, *, count=False):
        values = self.reference(reference, metric)
        return self.mean(values) + ([len(SEEDS)] if len(self.mean(values)) == 1 or count else []) + self.seeds(values)

    def seeds(self, values):
        return [each for pair in zip(SEEDS, values, strict=True) for each in pair]

    def everything(self):
        """What prose may say of the metrics."""
        rows = [self.row(arm, metric) for arm in ARMS for metric in METRICS]
        gains = [self.gain(arm, reference) for arm in ARMS for reference in REFERENCES]
        needed = [self.needed("deduplicated", "test/knn")]
        return {number for row in (*rows, *gains, needed) for number in row} | {
            100 * (1 - ALPHA),
            len(SEEDS),
            len(ARMS),
            2,
        }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    import reported

    from dinov2lab.spec.study import expand
    from dinov2lab.store.folders import Workspace

    folder = tmp_path_factory.mktemp("numbers")
    study, workspace = reported.make_study(SEEDS), Workspace(folder / "lab")
    for cell in expand(study):
        reported.write_run(workspace, cell)
    write_report(study, workspace, folder / "x")
    return reported.Fabricated(study, workspace, expand(study))


@pytest.fixture(scope="module")
def out(made):
    return made.workspace.path.parent / "x"


@pytest.fixture(scope="module")
def page(out):
    return Page((out / "index.html").read_text())


@pytest.fixture(scope="module")
def found(out):
    return Recomputed(out / "results.csv")


def test_the_page_has_no_section_whose_numbers_are_not_looked_at(page):
    assert set(page.prose) == SECTIONS | {"provenance"}
    assert {section for section, _ in page.tables} == SECTIONS - {
        "header",
        "forest",
        "learning",
        "health",
        "method",
    } | {"provenance"}
    assert {section for section, _ in page.labels} == {"forest", "learning", "health"}


def test_every_number_of_the_tables_of_metrics(page, found):
    tables = [rows[1:] if not rows[0] else rows for section, rows in page.tables if section in ("arms", "metrics")]
    assert len(tables) == len(METRICS)
    for metric, rows in zip(METRICS, tables, strict=True):
        references = [] if metric == "health/rankme" else list(REFERENCES)
        body = [row for row in rows if row.strip() and "References, without" not in row]
        assert len(body) == len(ARMS) + len(references)
        for arm, row in zip(ARMS, body, strict=False):
            assert_shows(row, found.row(arm, metric))
        for reference, row in zip(references, body[len(ARMS) :], strict=True):
            assert_shows(row, found.reference_row(reference, metric))


def test_every_number_of_the_gains(page, found):
    (rows,) = [rows for section, rows in page.tables if section == "references"]
    body = [row for row in rows if row.strip()]
    assert len(body) == len(ARMS)
    for arm, row in zip(ARMS, body, strict=True):
        assert_shows(row, [number for reference in REFERENCES for number in found.gain(arm, reference)])


def test_every_number_of_the_costs(page, found):
    (rows,) = [rows for section, rows in page.tables if section == "cost"]
    for arm, row in zip(ARMS, [row for row in rows if row.strip()], strict=True):
        cost = {name: found.of(arm, f"cost/{name}") for name in ("images", "flops", "seconds", "peak_memory_mb")}
        means = [cost[name].mean() for name in ("images", "flops", "seconds")]
        parameters = found.of(arm, "cost/parameters")
        assert_shows(row, [len(SEEDS), *means, cost["peak_memory_mb"].max(), parameters[0]])


def test_every_number_of_the_prose(page, found):
    known = found.everything()
    for section in ("header", "forest", "arms", "references", "metrics", "health", "cost"):
        assert_among(page.prose[section], known)
    assert_among(page.prose["method"], known | {LOOKS, 1, 0})
    assert_among(page.prose["learning"], known)


def test_every_number_that_a_figure_tells(page, found, made):
    forest, *panels = page.labels
    assert_shows(forest[1], [number for arm in ARMS[1:] for number in found.difference(arm, "test/knn")])
    table, titles = found.table, {title(metric): metric for metric in found.table.metric.unique()}
    for _, label in panels:
        metric, lasts = titles[label.partition(" against images seen")[0].removesuffix(", %")], []
        history = table[(table.metric == metric) & (table.step < made.study.arms[0].spec.optim.steps)]
        for arm in ARMS:
            for seed in SEEDS:
                mine = history[(history.arm == arm) & (history.seed == seed)].sort_values("step")
                lasts += [seed, scale(metric) * mine.value.iloc[-1]]
        assert_shows(label.partition("Last values: ")[2].partition(". ")[0], lasts)
        if scale(metric) == 100:
            references = [each for reference in REFERENCES for each in found.mean(found.reference(reference, metric))]
            assert_among(label.rpartition(". ")[2], references)
    assert len(panels) == 11


def test_every_number_of_the_verdict_and_its_words(out, found):
    rows = json.loads((out / "verdict.json").read_text())
    assert {(row["metric"], row["arm"]) for row in rows} == {(metric, arm) for metric in METRICS for arm in ARMS[1:]}
    for row in rows:
        difference = found.difference(row["arm"], row["metric"])
        factor = scale(row["metric"])
        assert [factor * row[name] for name in ("difference", "low", "high")] == pytest.approx(difference)
        effect = [row[name] for name in ("effect", "effect_low", "effect_high")]
        assert effect == pytest.approx(found.effect(row["arm"], row["metric"]), rel=2e-3, abs=2e-3)
        mean, *ends = difference
        told = [mean, 100 * (1 - ALPHA), *ends]
        match row["claim"]:
            case "better":
                assert_shows(row["words"], [*told, len(SEEDS)])
            case "not separable":
                resolved = found.resolvable(row["arm"], row["metric"])[0]
                assert_shows(row["words"], [*told, len(SEEDS), resolved, found.needed(row["arm"], row["metric"])])
            case _:
                assert_shows(row["words"], told)
    assert {row["claim"] for row in rows} >= {"better", "none"}


def test_every_number_of_the_markdown_tables(out, found):
    text = (out / "report.md").read_text().replace("\\|", "")
    for metric, name in METRICS.items():
        section = re.split(r"^## ", text, flags=re.MULTILINE)
        (mine,) = [part for part in section if part.lower().startswith(name.lower())]
        rows = [line for line in mine.splitlines() if line.startswith("| ")][1:]
        for arm, row in zip(ARMS, rows, strict=False):
            assert row.startswith(f"| {arm} |")
            assert_shows(row, found.row(arm, metric, resolvable=False))
        for reference, row in zip(REFERENCES, rows[len(ARMS) :], strict=False):
            assert REFERENCES[reference] in row
            assert_shows(row, found.reference_row(reference, metric, count=True))
        for line in (line for line in mine.splitlines() if line.startswith("- ")):
            assert_among(line, found.everything())


def test_every_number_of_curation_and_provenance(page, made, out):
    known = {*SEEDS, len(ARMS)}
    for file in made.workspace.cache.rglob("*.json"):
        known |= {number for number in leaves(json.loads(file.read_text())) if not isinstance(number, str)}
    records = [json.loads(file.read_text()) for file in made.workspace.cache.rglob("funnel.json")]
    known |= {each["rows"] + sum(each["dropped"].values()) for funnel in records for each in funnel}
    for section, rows in page.tables:
        if section == "curation":
            for row in rows:
                assert_among(row, known)
    assert_among(page.prose["curation"].replace("…", ""), known)
    results = [json.loads(file.read_text()) for file in made.workspace.runs.rglob("result.json")]
    times = {pd.Timestamp(each["finished_at"], unit="s", tz="UTC").strftime("%Y-%m-%d %H:%M UTC") for each in results}
    (rows,) = [rows for section, rows in page.tables if section == "provenance"]
    for cell, row in zip(made.cells, [row for row in rows if row.strip()], strict=True):
        assert row.split()[:2] == [cell.arm, str(cell.seed)]
        assert any(time in row for time in times)
    assert all(f"{name} {version}" in page.prose["provenance"] for name, version in ENVIRONMENT.items())


def leaves(value):
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    elif value is not None:
        yield value


def test_a_number_that_is_off_by_one_in_its_last_digit_is_found_out(page, found):
    (rows,) = [rows for section, rows in page.tables if section == "arms"]
    row = next(row for row in rows if "retrieved" in row)
    value = numbers(row)[0][0]
    with pytest.raises(AssertionError, match="recomputed"):
        assert_shows(row.replace(f"{value:.1f}", f"{value + 0.1:.1f}", 1), found.row("retrieved", "test/knn"))
