"""MLflow under load: many runs that write at once, a server that is slow, one that never answers."""

import http.server
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

import fabricated
import pytest
from mirrored import assert_equal_to_disk, finished_study, runs_of

from dinov2lab.lab import tracking
from dinov2lab.spec.study import Cell, expand
from dinov2lab.store.folders import Workspace

SILENT = Path("no reports")
RUNS = 32


@pytest.mark.system
def test_what_32_runs_write_at_once_is_mirrored_while_they_write(tmp_path: Path) -> None:
    """They write to their folders, and one process at a time mirrors: SQLite has one writer."""
    workspace, study = Workspace(tmp_path / "lab"), fabricated.study(seeds=RUNS // 2)
    fabricated.remember(workspace, study)
    cells, fork = expand(study), multiprocessing.get_context("fork")
    assert len(cells) == RUNS
    mirrored = fork.Event()
    for cell in cells:
        fabricated.start(workspace, cell, count=0)
    crowd = [fork.Process(target=written, args=(workspace, cell, mirrored)) for cell in cells]
    for process in crowd:
        process.start()
    assert tracking.try_sync(study, workspace, SILENT, seconds=600) is None
    mirrored.set()
    assert tracking.try_sync(study, workspace, SILENT, seconds=600) is None
    for process in crowd:
        process.join()
    assert [process.exitcode for process in crowd] == [0] * RUNS
    tracking.sync(study, workspace, SILENT)
    assert_equal_to_disk(workspace, study)
    assert {run.info.status for run in runs_of(workspace, study).values()} == {"FINISHED"}


def written(workspace: Workspace, cell: Cell, mirrored: EventType) -> None:
    """Rows until something was mirrored, and some after that."""
    index, after = 0, 0
    while after < 3:
        fabricated.append(workspace, cell, fabricated.rows(cell, index + 1, first=index))
        index, after = index + 1, after + mirrored.wait(0.5)
    fabricated.finish(workspace, cell)


@contextmanager
def answering(seconds: float) -> Iterator[str]:
    """A server that takes its time, and then knows nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(seconds)
            self.send_error(503)

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_never_answers_costs_a_line_and_one_request_s_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        line, seconds = tried(tmp_path, f"http://127.0.0.1:{deaf.getsockname()[1]}", monkeypatch)
    assert "timed out" in line
    assert seconds < 10


def test_a_server_that_cannot_serve_costs_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(0.5) as uri:
        line, seconds = tried(tmp_path, uri, monkeypatch)
    assert line.startswith(f"MLflow at {uri}: ")
    assert "503" in line
    assert seconds < 10


def tried(folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """A sync with a server there: what it says, and how long it takes where a request may take a second."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    workspace, study = Workspace(folder / "lab"), fabricated.study(seeds=1)
    finished_study(workspace, study)
    began = time.monotonic()
    line = tracking.try_sync(study, workspace, SILENT)
    assert line
    return line, time.monotonic() - began
