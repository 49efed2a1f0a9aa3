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


def test_a_distillation_trains_its_teacher_first_and_keeps_the_average_of_the_student(lab: Path) -> None:
    (lab / "distilled.yaml").write_text(
        "base: short.yaml\n"
        "model: {drop_path: 0.0}\n"
        "objective:\n"
        "  distill: {kind: run, run: teacher.yaml}\n"
        "  ibot: {tokens: all, masks: {probability: 0.0}}\n"
    )
    (lab / "teacher.yaml").write_text("base: short.yaml\nmodel: {size: nano}\n")
    spec = load_recipe(lab / "distilled.yaml")
    result, folder = run(lab, spec)
    assert result.error is None
    teacher = checkpoint.load(run(lab, load_recipe(lab / "teacher.yaml"))[1].checkpoint)["teacher"]
    assert teacher["backbone.vit.cls_token"].shape[-1] == 128
    kept = load_backbone(spec, folder.backbone).state_dict()
    average = checkpoint.load(folder.checkpoint)["teacher"]
    assert all(torch.equal(value, average[f"backbone.{key}"]) for key, value in kept.items())
    assert kept["vit.cls_token"].shape[-1] == 64


def test_new_heads_learn_on_a_frozen_backbone(lab: Path) -> None:
    theirs = build_student(spec_of(lab), Key(98))["backbone"].state_dict()
    (lab / "frozen").mkdir()
    save_file(to_huggingface(theirs, gated=False), lab / "frozen/model.safetensors")
    sets = ["model.weights={kind: huggingface, folder: frozen}", "optim.freeze_backbone_steps=3"]
    result, folder = run(lab, spec_of(lab, *sets))
    assert result.error is None
    ended = load_backbone(folder.read_spec(), folder.backbone).state_dict()
    torch.testing.assert_close(dict(ended), dict(theirs), rtol=0, atol=0)
    content, drawn = checkpoint.load(folder.checkpoint)["student"], build_student(spec_of(lab), Key(0)).state_dict()
    assert not torch.equal(content["dino_head.mlp.0.weight"], drawn["dino_head.mlp.0.weight"])


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["objective.dino.head.prototypes=33"], "objective.dino.head.prototypes 33 must be that of objective.distill"),
        (["objective.ibot.head=null", "objective.dino.head.prototypes=32"], None),
        (["model.patch=16"], "model.patch 16 must be that of objective.distill.run, 8"),
    ],
)
def test_a_teacher_of_other_prototypes_or_patches_is_refused(lab: Path, sets: list[str], words: str | None) -> None:
    text = f"objective.distill={{kind: run, run: {lab}/short.yaml}}"
    if words is None:
        assert load_recipe(lab / "short.yaml", [text, sets[0]]).objective.distill is not None
        return
    with pytest.raises(ValueError, match=words):
        load_recipe(lab / "short.yaml", [text, *sets])
