"""A workspace whose MLflow database an older MLflow made opens, and what it was is kept."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import fabricated
import pytest
from mirrored import runs_of

from dinov2lab.lab import database, tracking
from dinov2lab.lab.sending import TrackingError
from dinov2lab.spec.study import expand
from dinov2lab.store.folders import Workspace

pytestmark = pytest.mark.system  # a migration takes seconds


def schema(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def older(file: Path, back: int) -> str:
    """A database as an MLflow of `back` migrations ago would make it, with an experiment in it; returns its schema."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    revision = [script.revision for script in database._scripts().walk_revisions()][back]
    config = _get_alembic_config(f"sqlite:///{file}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES ('old', 'x', 'active')"
        )
        connection.commit()
    return revision


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(tmp_path / "lab")


def test_an_older_one_is_migrated_and_kept(workspace: Workspace, tmp_path: Path) -> None:
    was = older(workspace.database, 3)
    study = fabricated.study()
    fabricated.remember(workspace, study)
    for cell in expand(study):
        fabricated.start(workspace, cell)
        fabricated.finish(workspace, cell)
    tracking.sync(study, workspace, tmp_path / "reports")
    backup = workspace.path / f"mlflow.db.{was}.backup"
    assert schema(backup) == was
    assert schema(workspace.database) == database._scripts().get_current_head() != was
    assert len(runs_of(workspace, study)) == len(expand(study))
    with closing(sqlite3.connect(workspace.database)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM experiments")}
    assert {"old", study.name} <= names
    stamp = backup.stat().st_mtime_ns
    tracking.sync(study, workspace, tmp_path / "reports")
    assert backup.stat().st_mtime_ns == stamp
    assert len(list(workspace.path.glob("*.backup"))) == 1


def test_a_kill_while_it_is_migrated_leaves_the_old_one(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    was = older(workspace.database, 1)

    def half(_: Path, new: Path) -> None:
        new.write_bytes(b"half a database")
        raise KeyboardInterrupt

    monkeypatch.setattr(database, "_upgraded", half)
    with pytest.raises(KeyboardInterrupt):
        database.migrate(workspace.database)
    assert schema(workspace.database) == was
    monkeypatch.undo()
    database.migrate(workspace.database)
    assert schema(workspace.database) != was


def test_one_of_a_newer_mlflow_is_left_alone_and_said(workspace: Workspace) -> None:
    older(workspace.database, 0)
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00'")
        connection.commit()
    shutil.copy(workspace.database, workspace.path / "before")
    with pytest.raises(
        TrackingError, match=r"was written by a newer MLflow \(schema f00\): install that one again, or move"
    ):
        tracking.sync(fabricated.study(), workspace, workspace.path)
    assert workspace.database.read_bytes() == (workspace.path / "before").read_bytes()
