"""MLflow equals disk through a real server, which starts late, dies in the middle and comes back."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fabricated
import pytest
from mirrored import assert_equal_to_disk, client, finished_study, runs_of
from tiny import interruptible

from dinov2lab.lab import tracking
from dinov2lab.spec.study import expand
from dinov2lab.store.folders import Workspace

pytestmark = pytest.mark.system
START_SECONDS = 180
SILENT = Path("no reports")


class Server:
    """`mlflow server` on a free port of the loopback, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, **tracking.UI_ENVIRONMENT}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *store, *artifacts],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until_healthy(self.uri)

    def kill(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


def wait_until_healthy(uri: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"no server at {uri} after {START_SECONDS} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def workspace(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return Workspace(tmp_path / "lab")


def test_all_of_a_study_is_mirrored_once(workspace: Workspace, tmp_path: Path) -> None:
    study = fabricated.study("whole")
    finished_study(workspace, study)
    cell = expand(study)[0]
    nothing = {
        "step": 1,
        "images": 1,
        "time": fabricated.BEGAN,
        "loss/total": float("nan"),
        "gradient/norm": float("inf"),
    }
    fabricated.append(workspace, cell, [nothing])
    fabricated.report(tmp_path / "reports", study)
    tracking.prepare(study, workspace)
    for _ in range(2):
        tracking.sync(study, workspace, tmp_path / "reports")
    shutil.rmtree(workspace.path / "tracking" / "cursors")
    assert tracking.try_sync(study, workspace, tmp_path / "reports") is None

    assert_equal_to_disk(workspace, study)
    mirrored = runs_of(workspace, study)
    assert mirrored[cell.run].info.status == "FINISHED"
    for other in expand(study)[1:]:
        assert mirrored[other.run].inputs.dataset_inputs[0].dataset.digest == f"{fabricated.MANIFEST}{other.arm}"
    (parent,) = runs_of(workspace, study, "study").values()
    files = {item.path for item in client(workspace).list_artifacts(parent.info.run_id, "report")}
    assert "report/index.html" in files
    assert not workspace.database.exists(), "the server has the database"


def test_a_server_that_dies_in_the_middle_loses_nothing(workspace: Workspace, server: Server) -> None:
    study = fabricated.study("interrupted")
    finished_study(workspace, study, count=1500)
    tracking.prepare(study, workspace)
    threading.Timer(1.0, server.kill).start()
    line = tracking.try_sync(study, workspace, SILENT, seconds=60)
    assert line
    assert line.startswith(f"MLflow at {server.uri}: ")
    server.process.wait()
    began = time.monotonic()
    assert tracking.try_sync(study, workspace, SILENT)
    assert time.monotonic() - began < 10, "a server that is down must not hold up the runs"
    server.start()
    tracking.sync(study, workspace, SILENT)
    assert_equal_to_disk(workspace, study)
    assert {run.info.status for run in runs_of(workspace, study).values()} == {"FINISHED"}


PAGES = """
import sys
from pathlib import Path
from dinov2lab.lab import tracking
from dinov2lab.store.folders import Workspace
sys.exit(tracking.ui(Workspace(Path(sys.argv[1])), int(sys.argv[2])))
"""


def test_the_pages_are_served_until_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace, study = Workspace(tmp_path / "lab"), fabricated.study()
    finished_study(workspace, study, count=3)
    tracking.sync(study, workspace, SILENT)
    port = Server(tmp_path).port
    command = [sys.executable, "-c", PAGES, str(workspace.path), str(port)]
    pages = subprocess.Popen(command, start_new_session=True, preexec_fn=interruptible)
    wait_until_healthy(f"http://127.0.0.1:{port}")
    os.kill(pages.pid, 2)
    assert pages.wait(30) == 0
    deadline = time.monotonic() + 15
    while group_lives(pages.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not group_lives(pages.pid), "a server is left behind"


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
