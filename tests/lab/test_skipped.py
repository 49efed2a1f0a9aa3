"""Sets that a run is to be evaluated on and that are not there: skipped by name, fatal to nothing, made up for later."""

import json
import re
from pathlib import Path
from shutil import copy

import pytest
from tiny import RECIPE, STUDY

from dinov2lab.cli import main
from dinov2lab.data.source import Missing, Roots, open_source
from dinov2lab.data.toyweb import materialise
from dinov2lab.lab import opening
from dinov2lab.lab.execute import execute
from dinov2lab.report.render import write_report
from dinov2lab.spec.load import load_recipe, load_study
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.study import Study, expand
from dinov2lab.store import studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunResult

PARTS = {
    "memory": "queries?images=48",
    "test": "test?images=48",
    "shifted": "test?images=48&shift=noise",
    "scenes": "scenes?images=48",
}
MISSING = """
base: base.yaml
data: {train: "toyweb:pool?images=96"}
curation: null
optim: {steps: 4, warmup_steps: 1}
evaluation:
  memory: "parquet:memory.parquet"
  test: "parquet:test.parquet"
  shifted: [{name: noise, source: "parquet:shifted.parquet"}]
  depth: {memory: "parquet:scenes.parquet", test: null, epochs: 1, images: 16, bins: 4}
  retrieval: false
  segmentation: null
"""
FIELDS = {"memory": "memory", "test": "test", "shifted": "shifted.noise", "scenes": "depth.memory"}
URIS = {f"parquet:{name}.parquet" for name in PARTS}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of two arms and a seed."""
    folder = tmp_path_factory.mktemp("study")
    text = STUDY.split("arms:")[0].replace("curation.stages", "optim.lr").replace("[0, 1]", "[0]")
    text = re.sub("metrics: .*", "metrics: [test/knn, test/noise/knn, val/depth]", text)
    for name, content in {
        "experiments/base": RECIPE,
        "experiments/tiny": MISSING,
        "ablations/path": text + "arms:\n  uncurated: {}\n  faster: {optim.lr: 2.0e-3}\n",
    }.items():
        (folder / f"{name}.yaml").parent.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(content)
    return load_study(folder / "ablations/path.yaml")


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images that come too late."""
    folder = tmp_path_factory.mktemp("later")
    for name, part in PARTS.items():
        copy(materialise(part, folder / "drawn"), folder / f"{name}.parquet")
    return folder


class Lab:
    """A workspace beside a folder of images."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.data, self.workspace, self.study = folder / "data", Workspace(folder / "lab"), study
        self.data.mkdir(parents=True)
        self.roots = Roots(self.data, self.workspace.cache)

    def run(self) -> list[RunResult]:
        studies.record(self.study, self.workspace)
        options = self.workspace, self.roots, Resources(device="cpu")
        return [execute(cell.spec, *options) for cell in expand(self.study)]

    def outcomes(self) -> list[RunResult]:
        found = [self.workspace.run(cell.run).outcome() for cell in expand(self.study)]
        return [outcome for outcome in found if outcome]

    def report(self, out: Path) -> tuple[str, str]:
        """(page, Markdown), each on one line."""
        write_report(self.study, self.workspace, out)
        return tuple(" ".join((out / name).read_text().split()) for name in ("index.html", "report.md"))  # type: ignore[return-value]

    def evaluate(self, *words: str) -> int:
        where = ("--workspace", str(self.workspace.path), "--data-root", str(self.data), "--device", "cpu")
        with pytest.raises(SystemExit) as end:
            main(["evaluate", self.study.name, "--skipped", *where, *words])
        return int(end.value.code or 0)


@pytest.fixture
def lab(tmp_path: Path, study: Study) -> Lab:
    return Lab(tmp_path, study)


def test_what_is_not_there_is_told_apart_from_what_cannot_be_opened(tmp_path: Path) -> None:
    roots = Roots(tmp_path, tmp_path / "cache")
    for uri in ("parquet:test.parquet", "parquet:te*.parquet", "folder:test"):
        with pytest.raises(Missing, match=r"there is no|no file matches"):
            open_source(uri, roots)
    (tmp_path / "broken.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match="broken") as error:
        open_source("parquet:broken.parquet", roots)
    assert not isinstance(error.value, Missing)


def test_before_anything_starts_it_is_told_what_will_be_skipped_and_refused_what_must_be_there(
    lab: Lab, study: Study
) -> None:
    cells = expand(study)
    said = opening.check(cells, lab.roots)
    assert {re.findall(r"^not evaluated: (parquet:\w+\.parquet): there is no", line)[0] for line in said} == URIS
    leaky = cells[0].spec.model_copy(
        update={"curation": load_recipe(Path(__file__).parents[2] / "experiments/web_pool.yaml").curation}
    )
    assert "parquet:test.parquet" not in leaky.only_evaluated_on()
    with pytest.raises(ValueError, match=r"there is no .*\nrelative paths start at --data-root"):
        opening.check([cells[0]._replace(spec=leaky)], lab.roots)
    (lab.data / "test.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match="not a Parquet file"):
        opening.check(cells, lab.roots)


def test_runs_end_without_them_and_the_report_names_each(lab: Lab, tmp_path: Path) -> None:
    for result in lab.run():
        assert (result.status, result.error) == ("finished", None)
        assert result.skipped.keys() == URIS
        assert {name for name in result.metrics if not name.startswith(("loss/", "health/"))} == set()
    for text in lab.report(tmp_path / "x"):
        plain = re.sub("</?code>", "", text)
        for name, field in FIELDS.items():
            told = f"Not evaluated: parquet:{name}.parquet (evaluation.{field}) in 2 runs, because"
            assert f"{told} there is no …/{name}.parquet" in plain
        assert "dinov2lab evaluate path --skipped" in plain
        assert "No claim on quality is possible: parquet:" in plain
        assert str(tmp_path) not in text
    verdict = json.loads((tmp_path / "x/verdict.json").read_text())
    assert all("was not there to be evaluated on" in row["words"] for row in verdict)


def test_later_they_are_made_up_for_bit_by_bit_and_the_result_stays_as_it_was(
    lab: Lab, later: Path, study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lab.run()
    before = {file: file.read_bytes() for file in lab.workspace.runs.rglob("result.json")}
    assert lab.evaluate() == 0
    assert "skipped parquet:test.parquet: there is no" in capfd.readouterr().err
    assert not list(lab.workspace.runs.rglob("completion.json")), "where nothing has come, nothing is written"
    for name in ("memory", "shifted"):
        copy(later / f"{name}.parquet", lab.data)
    assert lab.evaluate("--json") == 0
    left = json.loads(capfd.readouterr().out)
    assert [set(each) for each in left.values()] == [{"parquet:test.parquet", "parquet:scenes.parquet"}] * 2
    page, _ = lab.report(tmp_path / "half")
    assert "Not evaluated: <code>parquet:test.parquet" in page
    assert "Not evaluated: <code>parquet:memory.parquet" not in page
    for name in ("test", "scenes"):
        copy(later / f"{name}.parquet", lab.data)
    assert lab.evaluate() == 0
    assert "complete: 2 runs" in capfd.readouterr().out
    assert {file: file.read_bytes() for file in before} == before
    page, _ = lab.report(tmp_path / "whole")
    assert "Not evaluated" not in page
    assert "test/noise/knn" in (tmp_path / "whole/results.csv").read_text()
    there = Lab(tmp_path / "there", study)
    for name in PARTS:
        copy(later / f"{name}.parquet", there.data)
    for late, whole in zip(lab.outcomes(), there.run(), strict=True):
        assert (late.run, late.metrics, late.sources) == (whole.run, whole.metrics, whole.sources)
        assert not whole.skipped
        assert '"skipped"' not in there.workspace.run(whole.run).result.read_text()
    assert lab.evaluate() == 0
    assert "nothing to make up for" in capfd.readouterr().out


def test_other_code_that_completes_a_run_is_told_and_compared_only_when_asked(
    lab: Lab, later: Path, tmp_path: Path
) -> None:
    lab.run()
    for name in PARTS:
        copy(later / f"{name}.parquet", lab.data)
    lab.evaluate()
    file = lab.workspace.run(expand(lab.study)[0].run).completion
    file.write_text(re.sub('"code": "[^"]*"', '"code": "0therc0de000"', file.read_text()))
    page, _ = lab.report(tmp_path / "x")
    assert "completed by 0therc0de000" in page


def test_asking_for_something_else_beside_it_is_a_mistake(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    studies.record(lab.study, lab.workspace)
    assert lab.evaluate("--on", "toyweb:test") == 2
    assert capfd.readouterr().err.startswith("--skipped: measures what the recipe says")
