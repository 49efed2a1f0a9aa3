"""Runs that begin with weights from elsewhere, through `execute`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import RECIPE

from dinov2lab.data.source import Roots
from dinov2lab.draws import Key
from dinov2lab.lab.execute import execute
from dinov2lab.model.names import to_huggingface
from dinov2lab.model.weights import digest, load_backbone
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult
from dinov2lab.training import checkpoint
from dinov2lab.training.teacher import build_student

SHORT = """
base: tiny.yaml
data: {train: "toyweb:queries?images=96"}
curation: null
optim: {steps: 3}
evaluation: {linear: null, every: 1000000}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starts")
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "short.yaml").write_text(SHORT)
    return folder


def spec_of(lab: Path, *sets: str) -> RunSpec:
    return load_recipe(lab / "short.yaml", sets)


def run(lab: Path, spec: RunSpec) -> tuple[RunResult, RunFolder]:
    workspace = Workspace(lab / "lab")
    result = execute(spec, workspace, Roots(lab, workspace.cache), Resources(device="cpu"))
    return result, workspace.run(result.run)


def test_public_weights_are_where_training_begins_and_a_reference_row(lab: Path) -> None:
    backbone = build_student(spec_of(lab), Key(99))["backbone"]
    (lab / "net").mkdir()
    save_file(to_huggingface(backbone.state_dict(), gated=False), lab / "net/model.safetensors")
    # A learning rate that moves nothing: what the run ends with is what it began with.
    result, folder = run(
        lab, spec_of(lab, "model.weights={kind: huggingface, folder: net}", "optim.lr=1e-30", "optim.lr_end=0")
    )
    assert result.error is None
    ended = load_backbone(folder.read_spec(), folder.backbone).state_dict()
    torch.testing.assert_close(dict(ended), dict(backbone.state_dict()), rtol=0, atol=1e-20)
    assert result.metrics["initial/test/knn"] == result.metrics["test/knn"]
    named = json.loads(folder.provenance.read_bytes())["weights"]
    assert named == digest({f"backbone.{key}": value for key, value in backbone.state_dict().items()})


def test_weights_that_are_not_there_fail_the_run_in_one_line(lab: Path) -> None:
    result, _ = run(lab, spec_of(lab, "model.weights={kind: huggingface, folder: nowhere}"))
    assert result.status == "failed"
    assert result.error is not None
    assert "nowhere: holds no weights" in result.error
    assert "\n" not in result.error


def test_a_high_resolution_phase_trains_the_run_that_it_goes_on_from_and_begins_where_it_ended(lab: Path) -> None:
    larger = ["views.global_px=48", "views.local_px=24", "optim.lr=1e-30", "optim.lr_end=0"]
    result, folder = run(lab, spec_of(lab, f"model.weights={{kind: run, run: {lab}/short.yaml}}", *larger))
    assert result.error is None
    assert folder.read_spec().model.weights.run == spec_of(lab)
    _, before = run(lab, spec_of(lab))
    theirs, ours = (checkpoint.load(each.checkpoint)["student"] for each in (before, folder))
    assert {key for key in theirs if theirs[key].shape != ours[key].shape} == {"backbone.vit.pos_embed"}
    assert all(torch.allclose(theirs[key], ours[key], rtol=0, atol=1e-20) for key in theirs if "pos_embed" not in key)
    assert {"initial/test/knn", "untrained/test/knn", "pixels/test/knn"} <= result.metrics.keys()
    assert "weights" not in spec_of(lab).model_dump(exclude_none=True)["model"]
