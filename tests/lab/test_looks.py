"""A run that asks for everything: looks at teacher and student during training, every evaluation in the end."""

from pathlib import Path

import pytest
from tiny import RECIPE

from dinov2lab.data.source import Roots
from dinov2lab.lab.execute import execute
from dinov2lab.lab.judging import best_looks
from dinov2lab.spec.evaluation import EvaluationSpec, Looks
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.resources import Resources
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

ALL = [
    "evaluation.looks={}",
    "evaluation.knn.shots=[2]",
    "evaluation.knn.tries=2",
    "evaluation.linear={epochs: 2, blocks: [1, 4], average: [false, true]}",
    "evaluation.logistic={c: [0.1]}",
    'evaluation.depth={memory: "toyweb:scenes?images=32", test: "toyweb:scenes_test?images=32", epochs: 2, bins: 8}',
    "evaluation.copies=toyweb:copies?images=96",
    'evaluation.shifted=[{name: noise, source: "toyweb:test?images=96&shift=noise"}]',
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, RunFolder]:
    place = tmp_path_factory.mktemp("lab")
    (place / "tiny.yaml").write_text(RECIPE)
    spec = load_recipe(place / "tiny.yaml", ALL)
    workspace = Workspace(place / "lab")
    result = execute(spec, workspace, Roots(Path(), workspace.cache), Resources(device="cpu"))
    assert result.error is None
    return result, workspace.run(result.run)


def test_looks_see_teacher_and_student_and_never_test(ran: tuple[RunResult, RunFolder]) -> None:
    looks = [row for row in ran[1].rows() if "val/knn" in row]
    assert [row["images"] for row in looks] == [128, 256, 384]
    for row in looks:
        for name in ("val/knn", "val/segmentation", "health/rankme", "health/uniformity"):
            assert name in row
            assert f"student/{name}" in row
        assert not [name for name in row if "test/" in name]
    assert any(row["student/health/rankme"] != row["health/rankme"] for row in looks)


def test_the_end_measures_all_that_was_asked_for_of_the_network_and_of_both_references(
    ran: tuple[RunResult, RunFolder],
) -> None:
    names = {"knn", "knn_2_shot", "linear", "logistic", "retrieval"}
    metrics = ran[0].metrics
    for whose in ("", "untrained/", "pixels/"):
        for name in names | {"depth", "depth_order", "segmentation", "copies", "copies_recall"}:
            assert 0 <= metrics[f"{whose}test/{name}"] <= 1
        for name in names:
            assert 0 <= metrics[f"{whose}test/noise/{name}"] <= 1
    assert metrics["pixels/test/copies"] > 0.3  # most copies keep most pixels
    assert metrics["pixels/test/depth_order"] > 0.5
    assert metrics["test/depth_order"] != metrics["untrained/test/depth_order"]


def test_the_result_says_when_each_look_was_best(ran: tuple[RunResult, RunFolder]) -> None:
    rows = ran[1].rows()
    for name in ("val/knn", "val/segmentation", "student/val/knn"):
        best = max(row[name] for row in rows if name in row)
        first = next(row["images"] for row in rows if row.get(name) == best)
        assert ran[0].metrics[f"choice/images_at_best_{name.replace('/', '_')}"] == first


def test_the_best_look_is_the_first_of_equals_and_asked_for() -> None:
    rows = [{"images": each, "val/knn": value, "loss/total": 9.0} for each, value in ((10, 0.1), (20, 0.5), (30, 0.5))]
    assert best_looks([{"images": 5, "loss/total": 1.0}, *rows], EvaluationSpec(looks=Looks())) == {
        "choice/images_at_best_val_knn": 20
    }
    assert best_looks(rows, EvaluationSpec()) == {}
