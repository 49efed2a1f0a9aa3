"""The workspace's own MLflow database: made whole, and brought to the schema of the MLflow that is here, the old one kept."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from dinov2lab.lab.sending import TrackingError
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory


def ready(workspace: Workspace) -> None:
    """Make the database, where there is none, or migrate it. A new one is renamed into place whole: a half-made one is
    beyond repair. Raises TrackingError for one of a newer MLflow.
    """
    if workspace.database.exists():
        migrate(workspace.database)
        return
    for leftover in workspace.path.glob(f".{workspace.database.name}.*"):
        leftover.unlink()
    atomic.write(workspace.database, lambda new: _create(new, workspace.artifacts))


def _create(database: Path, artifacts: Path) -> None:
    """As MlflowClient would, which puts the folder that one stands in, in plain SQL: a quote in its name breaks it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{database.resolve()}", artifacts.resolve().as_uri())


def migrate(database: Path) -> None:
    """Bring a database that an older MLflow made to the schema of this one; what it was stays beside it, in
    NAME.SCHEMA.backup. It is a copy that is changed, and renamed into place. Raises TrackingError for one of a newer MLflow.
    """
    schema, scripts = _schema(database), _scripts()
    if schema in (None, scripts.get_current_head()):
        return
    if schema not in {script.revision for script in scripts.walk_revisions()}:
        raise TrackingError(
            f"{database}: was written by a newer MLflow (schema {schema}): install that one again, or move the file away, and"
            " `dinov2lab sync` makes it anew from disk"
        )
    with atomic.locked(database.with_name(f"{database.name}.lock")):
        if _schema(database) == schema:  # nobody was quicker
            backup = database.with_name(f"{database.name}.{schema}.backup")
            atomic.write(backup, lambda new: _copy(database, new))
            atomic.write(database, lambda new: _upgraded(backup, new))


def _schema(database: Path) -> str | None:
    """Alembic's name of it; none for a file that is no such database, of which MLflow itself has more to say."""
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return str(found[0]) if found else None


def _scripts() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    return ScriptDirectory.from_config(_get_alembic_config(""))


def _copy(database: Path, new: Path) -> None:
    """All of it, also what lies in a journal of writes beside it, which is emptied."""
    with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(new)) as copy:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        old.backup(copy)


def _upgraded(backup: Path, new: Path) -> None:
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    _copy(backup, new)
    engine = create_engine(f"sqlite:///{new.resolve()}")
    try:
        _upgrade_db(engine)
    finally:
        engine.dispose()
