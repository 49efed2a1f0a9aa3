"""`init`: a workspace from the package, also from the built wheel, away from the repository."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import dinov2lab

from dinov2lab.beginning.workspace import begin
from dinov2lab.spec.load import kind_of, load_recipe, load_study
from dinov2lab.spec.profile import load_profile

ROOT = Path(__file__).parent.parent


def test_it_holds_what_the_repository_holds_and_it_loads_there(tmp_path: Path) -> None:
    lab = tmp_path / "my-lab"
    begin(lab)
    for folder in ("experiments", "ablations", "schemas"):
        ours = {file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.is_file()}
        assert {file.relative_to(lab) for file in (lab / folder).rglob("*") if file.is_file()} == ours
    assert load_recipe(lab / "experiments/smoke.yaml") == load_recipe(ROOT / "experiments/smoke.yaml")
    name = "ablations/curation_vs_uncurated.yaml"
    assert load_study(lab / name, ["profile=gpu"]) == load_study(ROOT / name, ["profile=gpu"])
    assert kind_of(lab / "experiments/search_masks.yaml") == "search"
    assert load_profile(str(lab / "experiments/slurm/gpu.yaml")).gpus_per_node == 1
    assert "# my-lab" in (lab / "README.md").read_text()


def test_it_writes_over_nothing_and_then_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "data_size.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"data_size\.yaml: is there already"):
        begin(tmp_path)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["data_size.yaml"]
    (tmp_path / "ablations" / "data_size.yaml").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    begin(tmp_path)
    with pytest.raises(ValueError, match=r"\.gitignore and \d+ more: is there already"):
        begin(tmp_path)


@pytest.mark.parametrize(
    ("before", "method"),
    [((), "write_text"), (("notes.txt",), "write_text"), (("notes.txt", "experiments/notes.txt"), "rename")],
)
def test_a_ctrl_c_in_the_middle_of_it_leaves_what_was_there_before(
    before: tuple[str, ...], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in before:
        (tmp_path / "lab" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lab" / name).write_text("mine")
    there, genuine, calls = sorted(tmp_path.rglob("*")), getattr(Path, method), iter(range(30))

    def interrupted(self: Path, *words: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return genuine(self, *words, **named)

    monkeypatch.setattr(Path, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "lab")
    assert sorted(tmp_path.rglob("*")) == there


def test_a_folder_of_images_in_the_workspace_itself_needs_no_link(tmp_path: Path) -> None:
    (tmp_path / "lab/images").mkdir(parents=True)
    begin(tmp_path / "lab", images=tmp_path / "lab/images")
    assert not (tmp_path / "lab/images").is_symlink()
    (tmp_path / "other/images").mkdir(parents=True)
    (tmp_path / "other/lab/images").mkdir(parents=True)
    with pytest.raises(ValueError, match="images: is there already"):
        begin(tmp_path / "other/lab", images=tmp_path / "other/images")


@pytest.mark.system
def test_the_wheel_alone_makes_a_workspace_in_which_a_recipe_runs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("dinov2lab", "experiments", "ablations", "schemas"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    script = f"import setuptools.build_meta as b; print(b.build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    package = str(tmp_path / "installed")

    photos = tmp_path / 'photos of "2026"'
    _write_pictures(photos)
    made = dinov2lab(
        tmp_path, "init", "my-lab", "--images", photos.name, "--hours", "0.01", "--json", PYTHONPATH=package
    )
    lab, said = tmp_path / "my-lab", json.loads(made.stdout)
    assert set(said["files"]) == {str(file.relative_to(tmp_path)) for file in lab.rglob("*") if file.is_file()}
    assert (lab / "images").resolve() == photos
    assert (said["images"]["files"], said["images"]["near_copies"], said["study"]["file"]) == (
        *(140, 4),
        "ablations/mine_copies.yaml",
    )
    again = dinov2lab(tmp_path, "init", "my-lab", "--images", photos.name, PYTHONPATH=package)
    assert (again.returncode, again.stdout) == (2, "")
    told = dinov2lab(lab, "run", "curation_vs_uncurated", "--dry-run", PYTHONPATH=package)
    assert "12 of 12 runs to do" in told.stdout, told.stderr
    words = ("run", "mine", "--set", "optim.steps=2", "--set", "optim.warmup_steps=1")
    ran = dinov2lab(lab, *words, "--set", "optim.freeze_last_layer_steps=1", PYTHONPATH=package)
    assert ran.returncode == 0, ran.stderr
    assert "val/knn" in ran.stdout


def _write_pictures(folder: Path) -> None:
    """70 smooth pictures in each of two classes, and two of them twice."""
    generator = np.random.default_rng(0)
    for number in range(138):
        small = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        file = folder / ("cats" if number % 2 else "dogs") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC).save(file)
    for number in (0, 1):
        shutil.copy(
            folder / ("cats" if number % 2 else "dogs") / f"{number}.png", folder / "cats" / f"copy {number}.png"
        )
