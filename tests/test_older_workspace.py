"""A workspace of an earlier state of the package (golden/workspace: what is read lightly was kept of it) opens as its own."""

import json
import shutil
from pathlib import Path

import pytest

import dinov2lab
from dinov2lab.cli import main

GOLDEN = Path(__file__).parent / "golden" / "workspace"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "older")
    monkeypatch.chdir(tmp_path / "older")
    return tmp_path / "older"


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> object:
    with pytest.raises(SystemExit) as end:
        main((*arguments, "--json"))
    out, err = capfd.readouterr()
    assert not end.value.code, err
    return json.loads(out)


def test_what_has_a_result_is_not_run_again(older: Path, capfd: pytest.CaptureFixture[str]) -> None:
    planned = answer(capfd, "run", "path", "--dry-run")
    assert [(row["arm"], row["seed"], row["state"]) for row in planned] == [
        (arm, seed, "done") for seed in (0, 1) for arm in ("uncurated", "retrieved")
    ]
    assert {row["done"] for row in answer(capfd, "why-rerun", "path")} == {True}
    listed = {row["name"]: (row["done"], row["runs"]) for row in answer(capfd, "list")}
    assert (listed["path"], listed["embedder"]) == ((4, 4), (1, 1))


def test_its_numbers_are_those_that_it_has(older: Path, capfd: pytest.CaptureFixture[str]) -> None:
    final = {row["run"]: row["latest"]["val/knn"] for row in answer(capfd, "status", "path")}
    assert len(final) == 4
    frame = dinov2lab.results("path")
    measured = frame[frame.metric == "test/knn"]
    told = {file.parent.name: json.loads(file.read_text()) for file in older.glob("lab/runs/*/result.json")}
    assert len(measured) == 4
    assert all(row.value == told[row.run]["metrics"]["test/knn"] for row in measured.itertuples())
    first, second = sorted(final)[:2]
    assert answer(capfd, "diff", first, second)["spec"]
