"""Arms that differ in more than their factor are told, and in a strict study carry no claim."""

import pytest
from reported import ENVIRONMENT, write_run

from dinov2lab.report.confounds import confounds
from dinov2lab.report.render import write_report
from dinov2lab.report.tables import read_runs
from dinov2lab.spec.study import Decide
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder
from dinov2lab.store.result import Cost


def found(made):
    return confounds(made.study, read_runs(made.study, made.workspace))


def test_arms_that_differ_in_their_factor_alone_are_alike(fabricate):
    assert found(fabricate()) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": 2_000_000}, "parameters (2 M, not 1.21 M)"),
        ({"environment": ENVIRONMENT | {"torch": "2.11.0"}}, "torch (2.11.0, not 2.15.0)"),
        ({"cost": Cost(images=64_000, flops=71_000_000_000_000, seconds=1.0, peak_memory_mb=1.0)}, "images seen (64"),
        ({"cost": Cost(images=32_000, flops=142_000_000_000_000, seconds=1.0, peak_memory_mb=1.0)}, "FLOPs (142"),
    ],
)
def test_every_other_difference_is_named(fabricate, changes, said):
    made = fabricate()
    for cell in made.cells:
        if cell.arm == "retrieved":
            write_run(made.workspace, cell, **changes)
    assert list(found(made)) == ["retrieved"]
    assert found(made)["retrieved"].replace("\u202f", " ").startswith(said)


def shorten(made, arm):
    """As if a stage of the arm had found fewer images than it was asked for."""
    for run in read_runs(made.study, made.workspace):
        if run.arm == arm:
            folder = ManifestFolder(run.manifest)
            atomic.write_text(folder.record, folder.read().model_copy(update={"rows": 3920}).model_dump_json())


def test_a_set_that_came_out_short_is_told_on_the_first_screen(fabricate, tmp_path):
    made = fabricate()
    shorten(made, "retrieved")
    report = write_report(made.study, made.workspace, tmp_path / "x")
    (words,) = [row.words for row in report.rows if (row.metric, row.arm) == ("test/knn", "retrieved")]
    assert words.endswith("beside curation.stages it differs in training images (3\u202f920, not 4\u202f000)")
    page = (tmp_path / "x" / "index.html").read_text()
    assert page[: page.index("</header>")].count("training images (3\u202f920") == 1, "in the answer, and not once more"
    assert "it differs in training images (3\u202f920" in (tmp_path / "x" / "report.md").read_text().partition("\n>")[0]


def test_a_strict_study_claims_nothing_of_such_an_arm(fabricate, tmp_path):
    made = fabricate(decide=Decide(metric="test/knn", rule="blocked", strict=True))
    shorten(made, "retrieved")
    rows = {
        row.arm: row
        for row in write_report(made.study, made.workspace, tmp_path / "x").rows
        if row.metric == "test/knn"
    }
    assert rows["retrieved"].claim == "none"
    assert "the study is strict" in rows["retrieved"].words
    assert rows["deduplicated"].claim == "better"
