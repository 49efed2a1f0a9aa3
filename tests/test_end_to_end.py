"""The one path, as its user walks it: a study file, one command, a report; then the same command again."""

import csv
import json
import resource
from pathlib import Path

import pytest
from PIL import Image
from tiny import EMBEDDER, RECIPE, STUDY, dinov2lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study has run once."""
    folder = tmp_path_factory.mktemp("lab")
    for name, text in (
        ("experiments/tiny.yaml", RECIPE),
        ("experiments/embedder.yaml", EMBEDDER),
        ("ablations/path.yaml", STUDY),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    answer = dinov2lab(folder, "run", "ablations/path.yaml")
    assert answer.returncode == 0, answer.stderr
    assert "reports/path/index.html" in answer.stdout
    return folder


def test_every_run_leaves_a_result_with_both_references(lab: Path) -> None:
    results = [json.loads(file.read_text()) for file in sorted(lab.glob("lab/runs/*/result.json"))]
    assert len(results) == 2 * 2 + 1  # arms x seeds, and the embedder
    for result in results:
        assert result["status"] == "finished"
        assert result["cost"]["images"] == 12 * 32
        for row in ("", "untrained/", "pixels/"):
            for metric in ("val/knn", "test/knn", "val/linear", "test/linear"):
                assert 0 <= result["metrics"][row + metric] <= 1


def test_the_arms_train_on_what_curation_left_them(lab: Path) -> None:
    manifests = [json.loads(file.read_text()) for file in lab.glob("lab/cache/manifests/*/manifest.json")]
    stages = [manifest["stage"] for manifest in manifests]
    # One reading of each of three sources; leaks, duplicates and retrieval are shared by the seeds; a sample is a seed's own.
    # Near copies of test are looked for once in what the arms draw from, and once in what the embedder was trained on.
    shared = ["read"] * 3 + ["leaks", "duplicates", "retrieve"] + ["near_copies"] * 2
    assert sorted(stages) == sorted(shared + ["sample"] * 2)
    by_stage = {manifest["stage"]: manifest for manifest in manifests}
    assert by_stage["sample"]["rows"] == by_stage["retrieve"]["rows"] == 96
    pool = next(
        each for each in manifests if each["stage"] == "read" and each["parameters"]["uri"] == "toyweb:pool?images=400"
    )
    assert pool["rows"] + sum(pool["dropped"].values()) == 400
    assert set(pool["dropped"]) <= {"empty", "truncated", "not_an_image"}


def test_every_run_shows_what_it_saw(lab: Path) -> None:
    sheets = [Image.open(file) for file in lab.glob("lab/runs/*/pictures/views.png")]
    assert len(sheets) == 2 * 2 + 1
    assert {sheet.size for sheet in sheets} == {(2 * 34 + 2 * 18, 8 * 34)}  # two global and two local crops of 8 images


def test_the_report_holds_every_run(lab: Path) -> None:
    report = lab / "reports" / "path"
    page = (report / "index.html").read_text()
    assert "Does the path hold?" in page
    with (report / "results.csv").open() as file:
        final = {(row["arm"], row["seed"]) for row in csv.DictReader(file) if row["metric"] == "test/knn"}
    assert final == {(arm, seed) for arm in ("uncurated", "retrieved") for seed in ("0", "1")}
    verdict = json.loads((report / "verdict.json").read_text())
    assert {row["arm"] for row in verdict if row["metric"] == "test/knn"} == {"retrieved"}


def test_a_notebook_reads_what_the_command_has_left_and_trains_nothing_again(lab: Path) -> None:
    notebook = (Path(__file__).parent.parent / "docs" / "notebook.py").read_text()
    (lab / "notebook.py").write_text(notebook.replace('"curation_vs_uncurated"', '"path"'))
    before = {file: file.stat().st_mtime_ns for file in lab.glob("lab/runs/*/result.json")}
    said = dinov2lab(lab, program=("notebook.py",))
    assert said.returncode == 0, said.stderr
    assert "4 runs, 0 failed" in said.stdout
    assert "retrieved" in said.stdout
    assert "nearest to the first image: [" in said.stdout
    assert {file: file.stat().st_mtime_ns for file in lab.glob("lab/runs/*/result.json")} == before


def test_mlflow_has_a_parent_and_a_child_for_every_run(lab: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{lab}/lab/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "path"]
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == len(children) + 1 == 5
    assert {(run.data.tags["arm"], run.data.tags["seed"]) for run in children} == {
        (arm, seed) for arm in ("uncurated", "retrieved") for seed in ("0", "1")
    }
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_the_same_command_again_trains_nothing_and_is_quick(lab: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in lab.rglob("*") if file.is_file()}
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = dinov2lab(lab, "run", "ablations/path.yaml")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.returncode == 0, answer.stderr
    assert {file: file.stat().st_mtime_ns for file in lab.rglob("*") if file.is_file()} == before
    assert ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime <= 3.0


def test_a_run_that_fails_is_a_failed_cell_and_the_study_goes_on(lab: Path) -> None:
    """A learning rate beyond all bounds makes one arm's loss infinite."""
    text = STUDY.split("arms:")[0].replace("factor: curation.stages", "factor: optim.lr").replace("[0, 1]", "[0]")
    arms = "arms:\n  uncurated: {}\n  too_fast: {optim.lr: 1.0e+30}\n"
    (lab / "ablations" / "half.yaml").write_text(text + arms)
    answer = dinov2lab(lab, "run", "half")
    assert answer.returncode == 1
    assert (
        "not finite" in answer.stderr or "not finite" in answer.stdout or "the loss is" in answer.stdout + answer.stderr
    )
    page = (lab / "reports" / "half" / "report.md").read_text()
    assert "too_fast" in page
    assert "failed" in page


def test_a_typo_is_one_clear_line(lab: Path) -> None:
    answer = dinov2lab(lab, "run", "path", "--set", "optim.lrr=1")
    assert answer.returncode == 2
    assert "optim.lr" in answer.stderr
    assert len(answer.stderr.splitlines()) <= 2
