"""A disk that is full: a line says what to do, and then it goes on."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import RECIPE, STUDY, dinov2lab

ONE_ARM = "arms:\n  uncurated: {curation.stages: [{stage: sample, images: 96}]}\n"
RUN = ("run", "path", "--device", "cpu", "--jobs", "1")

pytestmark = pytest.mark.system


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    for name, text in (
        ("experiments/tiny.yaml", RECIPE),
        ("ablations/path.yaml", STUDY.split("arms:")[0].replace("[0, 1]", "[0]") + ONE_ARM),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def disk(lab: Path) -> Iterator[Path]:
    """The workspace on a file system of its own, of 4 MB."""
    place = lab / "lab"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if (answer := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode != 0:
        pytest.skip(f"needs the right to mount a small file system: {answer.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def metrics(place: Path) -> dict[str, float]:
    (file,) = place.glob("runs/*/result.json")
    found: dict[str, float] = json.loads(file.read_text())["metrics"]
    return found


def test_a_full_disk_is_a_line_and_with_space_the_same_command_goes_on_and_no_secret_is_left(
    lab: Path, disk: Path
) -> None:
    full = dinov2lab(lab, *RUN)
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].startswith("lab: no space is left")
    assert not list(disk.glob("runs/*/failure.json")), "no fault of the run"
    remount(disk, "size=64m")
    again = dinov2lab(lab, *RUN)
    assert again.returncode == 0, again.stderr
    server = {"MLFLOW_TRACKING_URI": "http://me:hunter2@127.0.0.1:9", "MLFLOW_TRACKING_PASSWORD": "hunter3"}
    down = dinov2lab(lab, *RUN, "--workspace", "elsewhere", **server)
    assert down.returncode == 0, down.stderr
    assert metrics(disk) == metrics(lab / "elsewhere")
    assert "MLflow is behind, `dinov2lab sync` completes it: MLflow at http://127.0.0.1:9" in down.stderr
    left = [file.read_bytes() for file in lab.rglob("*") if file.is_file()]
    assert not [text for text in (down.stdout.encode(), down.stderr.encode(), *left) if b"hunter" in text]
