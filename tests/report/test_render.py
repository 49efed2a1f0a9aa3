"""A report at every stage of a study: what it says, what it refuses to say, and what it never shows."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest
from reported import draw, write_examples, write_failure, write_run, write_started
from scipy import stats

from dinov2lab.report.render import write_report
from dinov2lab.spec.study import Published
from dinov2lab.store.manifest import Manifest


@pytest.fixture
def out(tmp_path):
    return tmp_path / "reports" / "x"


def page(out):
    return (out / "index.html").read_text()


def shown(out):
    """The text of the page, as read: one line, no tags."""
    text = re.sub(r"<(style|svg).*?</\1>", " ", page(out), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).replace("\u00a0", " ").split())


def verdict(out, metric="test/knn"):
    return {row["arm"]: row for row in json.loads((out / "verdict.json").read_text()) if row["metric"] == metric}


def everything_written(out):
    return "".join(
        file.read_text() for file in out.rglob("*") if file.is_file() and file.suffix not in (".parquet", ".pdf")
    )


def final_values(table, arm, metric):
    """Seed -> final value, from results.csv alone: finished runs are those that have a cost."""
    finished = set(table[table.metric == "cost/images"].run)
    rows = table[(table.arm == arm) & (table.metric == metric) & table.run.isin(finished)]
    return rows.sort_values("step").groupby("seed").value.last()


def test_every_number_of_the_verdict_is_recomputed_from_the_table(fabricate, out):
    made = fabricate()
    report = write_report(made.study, made.workspace, out)
    table, rows = pd.read_csv(out / "results.csv"), json.loads((out / "verdict.json").read_text())
    assert list(table.columns) == ["study", "arm", "seed", "run", "metric", "step", "value"]
    assert not table.duplicated(["run", "metric", "step"]).any()
    assert len(rows) == len(report.rows) == len(made.study.metrics) * 2
    for row in rows:
        arm, baseline = (final_values(table, row[key], row["metric"]) for key in ("arm", "baseline"))
        level = 1 - made.study.decide.alpha / 2 / 2  # two looks, two comparisons
        reference = stats.ttest_rel(arm, baseline).confidence_interval(level)
        assert row["difference"] == pytest.approx((arm - baseline).mean())
        assert (row["low"], row["high"]) == pytest.approx((reference.low, reference.high))
        if row["metric"] == made.study.decide.metric:
            assert row["claim"] == ("better" if row["low"] > 0 else "not separable")


def test_the_table_holds_history_and_finals_at_the_last_step(fabricate, out):
    made = fabricate((0,))
    write_report(made.study, made.workspace, out)
    table, cell = pd.read_csv(out / "results.csv"), made.cell("retrieved", 0)
    rows, finals = draw(cell, labels=True)
    mine = table[table.run == cell.run].set_index(["metric", "step"]).value
    assert mine["loss/ibot", 100] == rows[20]["loss/ibot"]
    for metric, number in finals.items():
        assert mine[metric, cell.spec.optim.steps] == number


def test_the_page_answers_the_question_with_effect_and_interval(fabricate, out):
    made = fabricate()
    report = write_report(made.study, made.workspace, out)
    text, row = shown(out), verdict(out)["retrieved"]
    size = f"retrieved is better than uncurated by {100 * row['difference']:.1f} points"
    assert report.path == out / "index.html"
    assert size in report.headline
    assert text.index(made.study.question) < text.index(size) < text.index("Provenance")
    assert f"(95 % interval +{100 * row['low']:.1f} to +{100 * row['high']:.1f})" in text
    assert re.search(r"with 3 seeds only a difference of [\d.]+ points would have been found four times in five", text)
    for part in ("raw pixels", "the same network untrained", "Learning curves", "Curation", "Health", "Cost of a run"):
        assert part in text
    assert "which images are drawn (in uncurated and deduplicated)" in text
    assert all(cell.run in text for cell in made.cells)
    assert "Failed and missing" not in text


def test_every_drop_is_counted_by_reason_and_pictured(fabricate, out):
    made = fabricate((0,))
    write_report(made.study, made.workspace, out)
    text = shown(out)
    for count in ("not an image 87", "corrupt 61", "truncated 40", "empty 12", "leak 158", "duplicate 3 522"):
        assert count in text
    assert "not retrieved 4 120" in text
    assert 'alt="leak: pool/00000_leak.jpg"' in page(out)
    assert 'alt="copy of: test/0000.png"' in page(out)


def test_every_arm_carries_its_leak_certificate(fabricate, out):
    made = fabricate((0,))
    write_report(made.study, made.workspace, out)
    words = "7 at 0.85, 2 equal have a near copy among the images trained on (score at least so much; by thumbnails 16"
    assert shown(out).count(f"of the 1 600 images of toyweb:test, {words}") == len(made.study.arms)
    assert (out / "report.md").read_text().count(words) == len(made.study.arms)


def test_a_study_without_any_run_says_so(fabricate, out):
    made = fabricate(run=False)
    report = write_report(made.study, made.workspace, out)
    assert report.headline == "No answer yet: none of 9 planned runs has finished."
    assert {row["claim"] for row in verdict(out).values()} == {"none"}
    assert all(row["difference"] is None for row in verdict(out).values())
    assert shown(out).count("not started") == 9
    assert len(pd.read_csv(out / "results.csv")) == 0


def test_one_seed_has_differences_and_no_claim(fabricate, out):
    made = fabricate((0,))
    write_report(made.study, made.workspace, out)
    row = verdict(out)["retrieved"]
    assert row["difference"] > 0.05
    assert (row["low"], row["high"], row["claim"]) == (None, None, "none")
    assert "one seed cannot tell a difference from chance" in row["words"]
    assert "one seed cannot tell a difference from chance" in shown(out)
    assert "no bars, for there are no intervals" in shown(out)
    assert "crosses zero" not in shown(out)


def test_without_labels_there_is_health_and_no_claim_on_quality(fabricate, out):
    made = fabricate(labels=False)
    report = write_report(made.study, made.workspace, out)
    assert "No claim on quality is possible" in report.headline
    assert {row.claim for row in report.rows} == {"none"}
    assert "no labels" in verdict(out)["retrieved"]["words"]
    assert "RankMe" in shown(out)
    assert "Test kNN" not in shown(out)


def test_failed_and_missing_runs_are_shown_with_their_reason(fabricate, out):
    made = fabricate(run=False)
    for cell in made.cells:
        if cell.arm != "deduplicated" or cell.seed == 0:
            write_run(made.workspace, cell)
    write_failure(made.workspace, made.cell("deduplicated", 1), "the loss is NaN at step 195")
    write_failure(made.workspace, made.cell("deduplicated", 2), "out of memory")
    write_report(made.study, made.workspace, out)
    assert "the loss is NaN at step 195" in shown(out)
    assert "out of memory" in (out / "report.md").read_text()
    assert "7 of 9 runs finished, 2 failed" in shown(out)
    assert verdict(out)["deduplicated"]["claim"] == "none"
    assert verdict(out)["retrieved"]["claim"] == "better"


def test_a_failed_seed_is_left_out_by_name_and_the_rest_decides(fabricate, out):
    made = fabricate((0, 1, 2, 3), run=False)
    for cell in made.cells:
        write_run(made.workspace, cell)
    failed = made.cell("retrieved", 3)
    made.workspace.run(failed.run).result.unlink()
    write_failure(made.workspace, failed, "boom")
    write_report(made.study, made.workspace, out)
    assert verdict(out)["retrieved"]["claim"] == "better"
    assert "3 seeds; left out as failed: retrieved seed 3" in verdict(out)["retrieved"]["words"]


def test_no_claim_is_made_while_runs_of_the_two_arms_are_to_come(fabricate, out):
    made = fabricate()
    last = made.cell("retrieved", 2)
    made.workspace.run(last.run).result.unlink()
    write_report(made.study, made.workspace, out)
    row = verdict(out)["retrieved"]
    assert row["claim"] == "none"
    assert row["low"] is not None
    assert row["words"].startswith("no claim yet: +")
    assert "at step 495 of 500" in shown(out)


def test_a_run_that_has_only_begun_is_no_result(fabricate, out):
    made = fabricate(run=False)
    write_started(made.workspace, made.cells[0], [])
    write_report(made.study, made.workspace, out)
    assert "running or stopped: at step 0 of 500" in shown(out)


def test_different_code_is_named_and_not_compared_unless_asked(fabricate, out):
    made = fabricate()
    write_run(made.workspace, made.cell("retrieved", 1), code="0therc0de000")
    write_report(made.study, made.workspace, out)
    assert {row["claim"] for row in verdict(out).values()} == {"none"}
    assert "different code (0therc0de000, c0de5ca1ab1e)" in verdict(out)["retrieved"]["words"]
    assert "No claim is made: the runs were made by different code" in shown(out)
    write_report(made.study, made.workspace, out, pool=True)
    assert verdict(out)["retrieved"]["claim"] == "better"
    assert "Pooled on request: the runs were made by different code" in shown(out)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": {"toyweb:pool": "changed"}}, "the source toyweb:pool changed between runs"),
        ({"manifest": "other"}, "the arm retrieved draws no images, yet its runs saw different images"),
    ],
)
def test_runs_on_different_data_are_not_compared(fabricate, out, changes, words):
    made = fabricate()
    write_run(made.workspace, made.cell("retrieved", 1), **changes)
    write_report(made.study, made.workspace, out)
    assert verdict(out)["retrieved"]["claim"] == "none"
    assert words in verdict(out)["retrieved"]["words"]


def test_an_arm_that_learnt_nothing_is_called_so_on_the_first_screen(fabricate, out):
    made = fabricate()
    for cell in made.cells:
        finals = draw(cell, labels=True)[1]
        write_run(made.workspace, cell, metrics=finals | {"test/knn": finals["untrained/test/knn"] - 1e-3 * cell.seed})
    write_report(made.study, made.workspace, out)
    warning = "no arm beats the same network untrained beyond the interval"
    assert 0 < shown(out).index(warning) < shown(out).index("Test kNN: the arms")


def test_a_result_that_is_no_number_is_shown_and_claims_nothing(fabricate, out):
    made = fabricate()
    cell = made.cell("retrieved", 1)
    write_run(made.workspace, cell, metrics=draw(cell, labels=True)[1] | {"test/knn": float("nan")})
    write_report(made.study, made.workspace, out)
    assert "NaN" in shown(out)
    assert verdict(out)["retrieved"]["claim"] == "none"
    assert "no number" in verdict(out)["retrieved"]["words"]


def test_an_arm_that_is_better_by_one_measure_and_worse_by_another_is_called_mixed_on_the_first_screen(fabricate, out):
    made = fabricate()
    for cell in made.cells:
        if cell.arm == "retrieved":
            finals = draw(cell, labels=True)[1]
            write_run(made.workspace, cell, metrics=finals | {"test/linear": finals["test/linear"] - 0.3})
    write_report(made.study, made.workspace, out)
    words = "Mixed: retrieved is better than uncurated on test kNN, and worse on test linear probe."
    assert words in shown(out)
    assert shown(out).index(words) < shown(out).index("Decides: test kNN")
    assert words in (out / "report.md").read_text()
    assert "Mixed: deduplicated" not in shown(out)


def test_the_answer_has_the_size_and_the_interval_of_each_arm_also_where_none_is_separable(fabricate, out):
    made = fabricate()
    for cell in made.cells:  # what one seed adds to one arm alone hides every difference
        finals = draw(cell, labels=True)[1]
        chance = (0.2, -0.2, 0.1)[cell.seed] * {"uncurated": 1, "deduplicated": -1, "retrieved": 0}[cell.arm]
        write_run(made.workspace, cell, metrics=finals | {"test/knn": finals["test/knn"] + chance})
    report = write_report(made.study, made.workspace, out)
    for row in verdict(out).values():
        assert row["claim"] == "not separable"
        low, high = (f"{100 * row[end]:+.1f}".replace("-", "−") for end in ("low", "high"))
        size = f"{100 * row['difference']:+.1f}".replace("-", "−")
        assert f"{row['arm']} ({size} points, 95 % interval {low} to {high})" in report.headline
    assert "are not separable from uncurated: with 3 seeds only a difference of" in report.headline


def test_features_that_beat_an_untrained_network_but_not_pixels_are_not_called_untaught(fabricate, out):
    made = fabricate()
    for cell in made.cells:
        write_run(made.workspace, cell, metrics=draw(cell, labels=True)[1] | {"pixels/test/knn": 0.9})
    write_report(made.study, made.workspace, out)
    assert "No arm beats raw pixels beyond the interval, so none has shown features that are worth more" in shown(out)
    assert "every arm beats the same network untrained beyond the interval" in shown(out)
    assert "taught anything" not in shown(out)


HOSTILE = "<script>alert(1)</script> | [x](javascript:y) \"'`"


def test_hostile_names_are_escaped(fabricate, out):
    made = fabricate((0, 1), question=HOSTILE, factor=(HOSTILE,), metrics=("test/knn", f"test/{HOSTILE}"))
    for cell in made.cells:
        finals = draw(cell, labels=True)[1] | {f"test/{HOSTILE}": 0.5 + cell.seed / 100}
        write_run(made.workspace, cell, metrics=finals, commit=HOSTILE, environment={HOSTILE: HOSTILE})
        spot = made.workspace.path / json.loads(made.workspace.run(cell.run).provenance.read_text())["manifest_folder"]
        write_examples(spot, [HOSTILE.replace("/", "")], 0)
        record = Manifest(
            id=HOSTILE, parent=None, stage=HOSTILE, parameters={HOSTILE: HOSTILE}, rows=1, dropped={HOSTILE: 1}
        )
        (spot / "funnel.json").write_text(f"[{record.model_dump_json()}]")
        groups = json.loads((spot / "examples.json").read_text())
        for entry in next(iter(groups.values())):
            entry["path"] = entry["witness"] = HOSTILE
        (spot / "examples.json").write_text(json.dumps(groups))
    write_failure(made.workspace, made.cells[0], HOSTILE)
    made.workspace.run(made.cells[0].run).result.unlink()
    write_report(made.study, made.workspace, out)
    assert page(out).count("<script") == 1, "the page's own, the only one that its policy lets run"
    own = re.search(r"<script>(.*)</script>", page(out), re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page(out)
    assert page(out).count("&lt;script&gt;") >= 8
    assert "<script" not in (out / "report.md").read_text()
    assert "[x](" not in (out / "report.md").read_text()


class Loads(HTMLParser):
    """Everything in a page that would make a browser fetch something."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "srcset", "data", "action", "poster")]
        self.found += [value for name, value in attrs if name == "href" and not value.startswith("#")]
        self.found += [tag] if tag in ("link", "iframe", "object", "embed", "base") else []


def test_the_page_is_one_file_that_loads_nothing(fabricate, out):
    made = fabricate()
    write_report(made.study, made.workspace, out)
    loads = Loads()
    loads.feed(page(out))
    assert len(loads.found) > 20, "the example images"
    assert all(value.startswith("data:image/png;base64,") for value in loads.found)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page(out))
    (own,) = re.findall(r"<script>(.*?)</script>", page(out), re.DOTALL)
    assert page(out).count("<script") == 1, "the one that sorts tables, written into the page"
    assert not re.search(r"fetch|import|XMLHttp|WebSocket|EventSource|sendBeacon|Image|eval|innerHTML|location", own)
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in page(out)
    assert len(page(out)) < 5_000_000


def test_no_folder_of_this_machine_is_named(fabricate, out, tmp_path):
    made = fabricate()
    write_failure(
        made.workspace, made.cells[1], f"FileNotFoundError: '{tmp_path}/my images/a.png' and {tmp_path}/b.png"
    )
    made.workspace.run(made.cells[1].run).result.unlink()
    write_run(made.workspace, made.cells[2], sources={f"parquet:{tmp_path}/pool.parquet": "a"})
    write_run(made.workspace, made.cells[5], sources={f"parquet:{tmp_path}/pool.parquet": "b"})
    write_report(made.study, made.workspace, out)
    written = everything_written(out)
    assert tmp_path.name not in written
    assert "my images" not in written
    assert "a.png" in written
    assert "pool.parquet changed between runs" in written


def test_example_files_outside_their_folder_are_not_read(fabricate, out):
    made = fabricate((0,))
    provenance = json.loads(made.workspace.run(made.cell("retrieved", 0).run).provenance.read_text())
    folder = made.workspace.path / provenance["manifest_folder"]
    inside = (folder / "examples" / "kept_0_own.png").read_bytes()
    (folder.parent / "outside.png").write_bytes(inside)
    entry = {"path": "x", "file": "../outside.png", "score": None, "witness": None, "witness_file": None}
    (folder / "examples.json").write_text(json.dumps({"odd": [entry]}))
    write_report(made.study, made.workspace, out)
    assert "Odd no picture x" in shown(out)


def test_what_was_published_stands_beside_and_says_that_it_is_of_elsewhere(fabricate, out):
    published = Published(
        source="a paper, Table 9", claim="it helps", numbers={"off": {"kNN": 55.6}, "on": {"mIoU": 63.0}}
    )
    made = fabricate((0, 1), published=published)
    write_report(made.study, made.workspace, out)
    for text in (shown(out), (out / "report.md").read_text()):
        assert "a paper, Table 9: it helps" in text
        assert "the directions can be compared, the values cannot" in text
    assert "off 55.6 – on – 63" in shown(out)
    assert "| off | 55.6 | – |\n| on | – | 63 |\n" in (out / "report.md").read_text()


def test_writing_again_changes_nothing(fabricate, out):
    made = fabricate()
    write_report(made.study, made.workspace, out)
    before = everything_written(out)
    write_report(made.study, made.workspace, out)
    assert everything_written(out) == before


def test_the_markdown_shows_figures_that_are_there(fabricate, out):
    made = fabricate()
    write_report(made.study, made.workspace, out)
    linked = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (out / "report.md").read_text())
    assert len(linked) > 8
    assert all((out / name).read_text().startswith("<svg") for name in linked)


def test_the_report_imports_no_torch_timm_or_mlflow():
    heavy = {"torch", "timm", "mlflow", "matplotlib"}
    code = f"import sys, dinov2lab.report.render; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_study_of_one_arm_has_nothing_to_compare(fabricate, out):
    made = fabricate()
    alone = made.study.model_copy(update={"arms": made.study.arms[:1]})
    report = write_report(alone, made.workspace, out)
    assert report.rows == ()
    assert "nothing to compare" in shown(out)
    assert json.loads((out / "verdict.json").read_text()) == []
