"""What gc shows is what no study needs, and never what is in use."""

from pathlib import Path

import fabricated
import pytest

from dinov2lab.spec.curation import CurationSpec, Retrieve
from dinov2lab.spec.embedders import RunEmbedder
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell, expand
from dinov2lab.store import atomic, garbage
from dinov2lab.store.folders import Workspace
from dinov2lab.store.submission import Launch


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A study that ran, with an embedder, and one run that belongs to nothing."""
    workspace, study = Workspace(tmp_path / "lab"), fabricated.study()
    embedder = RunSpec()
    retrieve = Retrieve(
        stage="retrieve", queries="toyweb:queries", embedder=RunEmbedder(kind="run", run=embedder), images=9
    )
    arm = study.arms[1]
    spec = arm.spec.model_copy(update={"curation": CurationSpec(stages=(retrieve,))})
    study = study.model_copy(update={"arms": (study.arms[0], arm.model_copy(update={"spec": spec}))})
    fabricated.remember(workspace, study)
    alone = RunSpec(seed=99)
    for cell in (*expand(study), Cell("", 0, run_id(embedder), embedder), Cell("", 99, run_id(alone), alone)):
        fabricated.start(workspace, cell, 3)
    return workspace


def found(workspace: Workspace, queued: frozenset[str] = frozenset()) -> set[str]:
    return {each.path.name for each in garbage.leftovers(workspace, queued)}


ALONE = run_id(RunSpec(seed=99))


def test_a_run_of_no_study_is_one_and_an_embedder_is_none(workspace: Workspace) -> None:
    (only,) = garbage.leftovers(workspace, frozenset())
    assert only.path.name == ALONE
    assert only.size > 100


def test_what_is_being_computed_is_none(workspace: Workspace) -> None:
    with atomic.locked(workspace.run(ALONE).lock):
        assert found(workspace) == set()


def test_a_run_that_a_search_names_is_none(workspace: Workspace) -> None:
    atomic.write_json(workspace.searches / "lr" / "trials.json", [{"run": ALONE}])
    assert found(workspace) == set()


def test_halves_of_files_are_and_those_of_somebody_at_work_are_not(workspace: Workspace) -> None:
    half = workspace.cache / "manifests" / ".0123.abc.tmp"
    half.mkdir(parents=True)
    picture = workspace.cache / "toyweb" / "4-0" / ".pool.parquet.xyz.tmp"
    picture.parent.mkdir(parents=True)
    picture.write_text("half")
    assert found(workspace) == {ALONE, half.name, picture.name}
    with atomic.locked(half.parent / "0123.lock"), atomic.locked(picture.parent / "pool.lock"):
        assert found(workspace) == {ALONE}
        garbage.sweep(workspace)
        assert half.exists()
    garbage.sweep(workspace)
    assert not half.exists()
    assert not picture.exists()


def test_launches_and_snapshots_go_when_their_jobs_have_gone(workspace: Workspace) -> None:
    launch = Launch(workspace.slurm / "curation.1125.abcd")
    atomic.write_text(launch.path / "5_submission.sh", f"export PYTHONPATH={workspace.snapshots / '0a1b'}\n")
    atomic.write_text(workspace.snapshots / "0a1b" / "dinov2lab" / "cli.py", "")
    assert found(workspace, frozenset({launch.name})) == {ALONE}
    assert found(workspace) == {ALONE, launch.name, "0a1b"}


def test_removing_removes_that_and_nothing_else(workspace: Workspace) -> None:
    before = {path.name for path in workspace.runs.iterdir()}
    garbage.remove(garbage.leftovers(workspace, frozenset()))
    assert {path.name for path in workspace.runs.iterdir()} == before - {ALONE}


def test_a_study_that_cannot_be_read_stops_it(workspace: Workspace) -> None:
    """Else its runs would look as if nobody needed them."""
    workspace.study("other").write_text("{}")
    with pytest.raises(ValueError, match=r"other.json: was written by another version"):
        garbage.leftovers(workspace, frozenset())
