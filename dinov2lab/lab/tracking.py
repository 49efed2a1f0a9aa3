"""MLflow as a mirror of the workspace: one experiment and one parent run per study, a child run per arm and seed.

Disk is the truth. Nothing here is needed for a run to finish; `sync` brings MLflow up to what is on disk, and a second
one adds nothing. One process mirrors a workspace at a time, so SQLite has one writer, however many runs there are.
"""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dinov2lab.lab import database
from dinov2lab.lab.mirror import State, mirror_report, mirror_run
from dinov2lab.lab.sending import Target, TrackingError, cut
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Study, expand
from dinov2lab.store import atomic, links
from dinov2lab.store.folders import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# No telemetry: its thread was seen to break log_batch. No retries of MLflow's own: a second create_run is a second run.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
UI_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
LINE_LENGTH = 300
PAGE = 1000
PORT = 5000  # of `ui`


def tracking_uri(workspace: Workspace) -> str:
    """MLFLOW_TRACKING_URI, else SQLite in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.database.resolve()}"


def prepare(study: Study, workspace: Workspace) -> None:
    """Create the database, the experiment of the study and its parent run, where missing. Raises TrackingError."""
    with mirroring(workspace, wait=True) as target:
        open_parent(target, study, workspace)


def sync(study: Study | None, workspace: Workspace, reports: Path) -> None:
    """Bring MLflow up to what is on disk, for one study or for all that ran in the workspace.

    Raises TrackingError where MLflow fails, ValueError for files that cannot be read, after mirroring all others.
    """
    _sync(study, workspace, reports, seconds=math.inf, wait=True)


def try_sync(study: Study | None, workspace: Workspace, reports: Path, *, seconds: float = 20) -> str | None:
    """`sync` for a caller who must go on: gives up after about `seconds`, or where another process is at it already.

    Returns one line on what is not mirrored yet, and why; None where MLflow equals disk.
    """
    try:
        _sync(study, workspace, reports, seconds=seconds, wait=False)
    except Exception as error:  # whatever MLflow and its libraries raise: a mirror never costs a run
        return line_of(error)
    return None


def _sync(study: Study | None, workspace: Workspace, reports: Path, *, seconds: float, wait: bool) -> None:
    problems: list[str] = []
    studies = _stored(workspace, problems) if study is None else [study]
    if studies:
        with mirroring(workspace, wait=wait, seconds=seconds) as target:
            for one in studies:
                problems += _mirror_study(target, one, workspace, reports)
    if problems:
        raise ValueError("\n".join(problems))


def _stored(workspace: Workspace, problems: list[str]) -> list[Study]:
    studies = []
    for file in sorted(workspace.studies.glob("*.json")):
        try:
            studies.append(Study.model_validate_json(file.read_bytes()))
        except ValueError as error:
            problems.append(f"{file}: {line_of(error)}")
    return studies


@contextmanager
def mirroring(workspace: Workspace, *, wait: bool, seconds: float = math.inf) -> Iterator[Target]:
    """The right to write to this workspace's MLflow, and the connection to it. Errors leave it as one line."""
    _set_environment()
    folder = workspace.path / "tracking"
    with _in_a_line(workspace), atomic.locked(folder / "lock", wait=wait) as mine:
        if not mine:
            raise TrackingError("another process is mirroring this workspace into MLflow")
        atomic.sweep(folder)
        client = _client(workspace)
        yield Target(client, experiment="", cursors=folder / "cursors", deadline=time.monotonic() + seconds)


@contextmanager
def _in_a_line(workspace: Workspace) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:  # requests' errors are OSErrors
        damaged = "(sqlite3.DatabaseError)" in str(error)  # a lock, say, is another error
        remedy = f"; delete {workspace.database}, and `dinov2lab sync` makes it anew from disk" if damaged else ""
        raise TrackingError(f"MLflow at {_public(tracking_uri(workspace))}: {line_of(error)}{remedy}") from error


def _set_environment() -> None:
    """Before mlflow is imported, which reads it then; what a user has set stands."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _client(workspace: Workspace) -> "MlflowClient":
    """Connected to a database that exists, and is of this MLflow's schema where it is the workspace's own."""
    from mlflow import MlflowClient

    uri = tracking_uri(workspace)
    if uri == f"sqlite:///{workspace.database.resolve()}":
        database.ready(workspace)
    return MlflowClient(uri, registry_uri=uri)


def open_parent(target: Target, study: Study | SearchSpec, workspace: Workspace) -> "Run":
    """Point `target` at the experiment of a study or a search, and return its parent run."""
    kind = "study" if isinstance(study, Study) else "search"
    target.experiment = _experiment(target.client, study, workspace)
    target.runs = list(_search(target.client, target.experiment))
    for run in target.runs:
        if run.data.tags.get("dinov2lab.kind") == kind and run.data.tags.get("study") == study.name:
            return run
    tags = {"dinov2lab.kind": kind, "study": study.name, "mlflow.note.content": study.question}
    return target.client.create_run(target.experiment, tags=tags, run_name=study.name)


def _experiment(client: "MlflowClient", study: Study | SearchSpec, workspace: Workspace) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(study.name)
    if found is None:
        local = tracking_uri(workspace).startswith("sqlite:")
        place = (workspace.artifacts.resolve() / study.name).as_uri() if local else None
        # the tag calls it an experiment of machine learning, where MLflow would guess
        tags = {"mlflow.note.content": study.question, "mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(study.name, artifact_location=place, tags=tags))
        except MlflowException:  # another workspace was quicker on the same server
            found = client.get_experiment_by_name(study.name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _search(client: "MlflowClient", experiment: str) -> "Iterator[Run]":
    token = None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _mirror_study(target: Target, study: Study, workspace: Workspace, reports: Path) -> list[str]:
    """Returns a line for each run, or report, whose files could not be read."""
    parent = open_parent(target, study, workspace)
    states: list[State | None] = []
    problems: list[str] = []
    for cell in expand(study):
        with noting(workspace.run(cell.run).path, problems):
            states.append(mirror_run(target, study.name, parent.info.run_id, cell, workspace, factor=study.factor))
    runs = {cell.run: target.children[cell.run] for cell in expand(study) if cell.run in target.children}
    server = _server(workspace)
    addresses = {run: f"{server}/#/experiments/{target.experiment}/runs/{child}" for run, child in runs.items()}
    links.keep(study.name, addresses, workspace)
    with noting(reports / study.name, problems):
        mirror_report(target, study, parent, states, reports / study.name)
    return problems


def _server(workspace: Workspace) -> str:
    """Where a browser finds this workspace's MLflow: its server, else what `ui` serves unless it is told another port."""
    uri = tracking_uri(workspace)
    return _public(uri).rstrip("/") if uri.startswith("http") else f"http://127.0.0.1:{PORT}"


@contextmanager
def noting(path: Path, problems: list[str]) -> Iterator[None]:
    """One unreadable file keeps nothing else from being mirrored."""
    try:
        yield
    except TrackingError:
        raise
    except (ValueError, KeyError) as error:
        problems.append(f"{path}: {line_of(error)}")


def pages(workspace: Workspace, port: int) -> dict[str, str]:
    """Study -> address of its runs, as `ui` serves them. MLflow's own start page leads to pages for language models.

    Raises ValueError as `ui` does, but not for the port.
    """
    _served(workspace)
    _set_environment()
    addresses = {}
    names = [file.stem for file in sorted(workspace.studies.glob("*.json"))]
    with _in_a_line(workspace):
        client = _client(workspace)
        for name in [*names, *(file.parent.name for file in sorted(workspace.searches.glob("*/search.json")))]:
            if found := client.get_experiment_by_name(name):
                runs = f"#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"
                addresses[name] = f"http://127.0.0.1:{port}/{runs}"
    return addresses


def _served(workspace: Workspace) -> str:
    """The store that `ui` opens."""
    uri = tracking_uri(workspace)
    if uri.startswith("http"):
        raise ValueError(f"MLFLOW_TRACKING_URI names a server: open {_public(uri)} in a browser")
    if not workspace.database.exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        raise ValueError(f"{workspace.database} does not exist yet: run a study first")
    if workspace.database.exists():
        _set_environment()
        database.migrate(workspace.database)
    return uri


def ui(workspace: Workspace, port: int) -> int:
    """Serve MLflow's pages of this workspace on the loopback until Ctrl-C; returns the server's exit status.

    Raises ValueError where there is nothing to serve or the port is taken.
    """
    uri = _served(workspace)
    _check_free(port)
    environment = os.environ | UI_ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}  # no argument: it may hold a password
    destination = str(workspace.artifacts.resolve())
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen([*command, "--artifacts-destination", destination], env=environment, cwd=workspace.path)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(server)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error


def _stop(server: subprocess.Popen[bytes], seconds: float = 10) -> None:
    server.terminate()
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        server.kill()


def line_of(error: BaseException) -> str:
    """What went wrong at the root of a network error, else the first line of what was said."""
    from urllib3.exceptions import HTTPError

    root = error
    while not isinstance(root, ValueError) and (root.__cause__ or root.__context__):
        root = root.__cause__ or root.__context__ or root
    lines = str(root if isinstance(root, OSError | HTTPError) else error).strip().splitlines() or [type(error).__name__]
    return cut(_public(lines[0]), LINE_LENGTH)


def _public(text: str) -> str:
    """Without the user and password that a URI may carry."""
    return re.sub(r"//[^/@\s]+@", "//", text)
