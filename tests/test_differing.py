"""`diff` and `why-rerun`, on fabricated workspaces: which field differs, and from which run."""

import json
from pathlib import Path

import fabricated
import pytest

from dinov2lab.cli import main
from dinov2lab.spec.differing import differences
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe, load_study
from dinov2lab.spec.study import Cell, expand
from dinov2lab.store.folders import Workspace
from dinov2lab.store.submission import new_launch, record

RECIPE = """
data: {train: "folder:images"}
curation: {stages: [{stage: sample, images: 100}]}
optim: {steps: 400, batch: 64, warmup_steps: 10}
"""
STUDY = """
question: Which rate?
base: small.yaml
factor: optim.lr
baseline: slow
seeds: [0, 1]
metrics: [test/knn]
decide: {metric: test/knn}
arms: {slow: {}, fast: {optim.lr: 0.01}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("rates.yaml").write_text(STUDY)
    return Workspace(Path("lab"))


def said(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


def finished(place: Workspace, *overrides: str) -> str:
    spec = load_recipe("small.yaml", overrides)
    cell = Cell("uncurated", spec.seed, run_id(spec), spec)
    fabricated.start(place, cell)
    fabricated.finish(place, cell)
    return cell.run


def test_differences_are_dotted_fields_down_to_elements_of_lists(place: Workspace) -> None:
    base = load_recipe("small.yaml")
    other = load_recipe("small.yaml", ["optim.lr=0.01", "curation.stages=[{stage: sample, images: 7}]", "seed=2"])
    found = {field: (first, second) for field, first, second in differences(base, other)}
    assert found == {"optim.lr": (base.optim.lr, 0.01), "curation.stages.0.images": (100, 7), "seed": (0, 2)}
    assert differences(base, base) == []
    assert [each.field for each in differences(base, load_recipe("small.yaml", ["curation=null"]))] == ["curation"]


def test_diff_names_fields_and_what_lies_beside_them(place: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    one, other = finished(place), finished(place, "optim.lr=0.01")
    file = place.run(other).provenance
    file.write_text(file.read_text().replace("2.15.0", "2.16.0"))
    code, out, _ = said(capfd, "diff", one, other)
    assert code == 0
    assert [line.split() for line in out.splitlines() if line.startswith(("optim", "versions"))] == [
        ["optim.lr", str(load_recipe("small.yaml").optim.lr), "0.01"],
        ["versions.torch", "2.15.0", "2.16.0"],
    ]
    told = json.loads(said(capfd, "diff", one, other, "--json")[1])
    assert [row["field"] for row in told["spec"]] == ["optim.lr"]
    assert "the recipes are one and the same" in said(capfd, "diff", one, one)[1]
    code, _, err = said(capfd, "diff", one, "zzz")
    assert (code, err.startswith("no run in lab is called 'zzz'")) == (2, True)


def test_a_run_that_was_sent_and_has_not_begun_has_a_log_and_no_recipe(
    place: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    one, folder = finished(place), place.run("0abc")
    folder.path.mkdir()
    record(folder, "7", new_launch(place, "study"), place.path / "job.err")
    (place.path / "job.err").write_text("it waits\n")
    assert said(capfd, "logs", "0ab") == (0, "it waits\n", f"{place.path / 'job.err'}\n")
    assert said(capfd, "diff", one, "0abc") == (2, "", "run 0abc has not begun\n")
    assert said(capfd, "logs", "zzz")[2].startswith("no run in lab is called 'zzz'")


def test_why_rerun_names_the_nearest_finished_run_and_the_fields(
    place: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "no run has finished here" in said(capfd, "why-rerun", "small.yaml")[1]
    far, near = finished(place, "optim.lr=0.5", "optim.batch=128", "seed=3"), finished(place, "optim.lr=0.02")
    rows = json.loads(said(capfd, "why-rerun", "small.yaml", "--json")[1])
    lr = load_recipe("small.yaml").optim.lr
    assert [row["nearest"] for row in rows] == [near]
    assert rows[0]["differences"] == [{"field": "optim.lr", "there": 0.02, "here": lr}]
    code, out, _ = said(capfd, "why-rerun", "small.yaml", "--set", "optim.lr=0.5", "--set", "optim.batch=128")
    assert code == 0
    assert f"{far} is nearest" in out
    assert "seed" in out


def test_why_rerun_of_a_study_says_it_run_by_run(place: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    study = load_study("rates.yaml")
    first = expand(study)[0]
    fabricated.start(place, first)
    fabricated.finish(place, first)
    rows = {(row["arm"], row["seed"]): row for row in json.loads(said(capfd, "why-rerun", "rates.yaml", "--json")[1])}
    assert rows["slow", 0]["done"]
    assert [each["field"] for each in rows["fast", 0]["differences"]] == ["optim.lr"]
    assert [each["field"] for each in rows["fast", 1]["differences"]] == ["optim.lr", "seed"]
    assert "slow seed 0: has a result" in said(capfd, "why-rerun", "rates.yaml")[1]
