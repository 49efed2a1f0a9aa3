"""The calls of a notebook, on fabricated workspaces: tables, networks, features; and that importing the package is cheap."""

import subprocess
import sys
from pathlib import Path

import fabricated
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import dinov2lab
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.cost import flops_of_run
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.study import Cell, expand
from dinov2lab.store.folders import Workspace

RECIPE = """
data: {train: "folder:images"}
views: {global_px: 32, local_px: 16, local_crops: 2}
model: {size: pico, patch: 8}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    return Workspace(Path("lab"))


@pytest.fixture
def trained(place: Workspace) -> tuple[str, Backbone]:
    """A finished run and the network that it left."""
    Path("recipe.yaml").write_text(RECIPE)
    spec = load_recipe("recipe.yaml")
    cell = Cell("uncurated", 0, "abc123", spec)
    fabricated.start(place, cell)
    fabricated.finish(place, cell)
    backbone = Backbone(spec.model, 32)
    backbone.initialise(torch.Generator().manual_seed(0))
    torch.save(backbone.state_dict(), place.run("abc123").backbone)
    return "abc123", backbone


def test_importing_the_package_imports_nothing_else() -> None:
    script = "import sys; before = {*sys.modules}; import dinov2lab; print(*{*sys.modules} - before)"
    found = {name.split(".")[0] for name in subprocess.check_output([sys.executable, "-c", script], text=True).split()}
    assert found - sys.stdlib_module_names == {"dinov2lab"}
    assert (Path(dinov2lab.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'load_studdy'"):
        dinov2lab.load_studdy  # noqa: B018


def test_results_are_tidy(place: Workspace) -> None:
    study = fabricated.study()
    fabricated.remember(place, study)
    for cell in expand(study)[:3]:
        fabricated.start(place, cell)
        fabricated.finish(place, cell, **{"test/knn": 0.5 + cell.seed / 8})
    frame = dinov2lab.results("curation")
    assert list(frame.columns) == ["study", "arm", "seed", "run", "metric", "step", "value", "cost"]
    assert not frame.duplicated(["run", "metric", "step"]).any()
    final = frame[frame.metric == "test/knn"].set_index(["arm", "seed"])
    assert final.value.to_dict() == {("uncurated", 0): 0.5, ("retrieved", 0): 0.5, ("uncurated", 1): 0.625}
    assert set(final.cost) == {float(flops_of_run(expand(study)[0].spec))}
    half = frame[(frame.metric == "loss/total") & (frame.step == 200)]
    assert set(half.cost) == {flops_of_run(expand(study)[0].spec) / 2}
    pd.testing.assert_frame_equal(frame, dinov2lab.results(dinov2lab.load_study("curation")))


def test_features_are_those_of_the_network_whatever_form_images_have(trained: tuple[str, Backbone]) -> None:
    run, backbone = trained
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    Path("images").mkdir()
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(f"images/{index}.png")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    batch = torch.from_numpy((pixels / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        wanted = backbone.eval()([batch])[0].cls.numpy()
    np.testing.assert_allclose(dinov2lab.features(run, list(pixels)), wanted, rtol=1e-4, atol=1e-5)
    files = sorted(Path("images").iterdir())
    for images in (files, [Image.open(file) for file in files], "folder:images"):
        np.testing.assert_array_equal(dinov2lab.features("abc", images), dinov2lab.features(run, list(pixels)))
    files[1].write_bytes(b"")
    with pytest.raises(ValueError, match=r"1\.png: empty"):
        dinov2lab.features(run, "folder:images")


def test_a_backbone_is_loaded_in_eval_mode(trained: tuple[str, Backbone]) -> None:
    run, backbone = trained
    loaded = dinov2lab.load_backbone(run)
    assert not loaded.training
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="no run in lab is called 'zzz'"):
        dinov2lab.load_backbone("zzz")


def test_a_recipe_is_no_study(trained: object) -> None:
    with pytest.raises(ValueError, match="is a recipe, and a study is wanted"):
        dinov2lab.load_study("recipe.yaml")
