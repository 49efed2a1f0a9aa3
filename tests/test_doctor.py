"""`doctor`: it says what is broken and what mends it, and breaks at nothing itself."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tiny import dinov2lab

from dinov2lab import commands, doctor
from dinov2lab.lab import devices, libraries, premises
from dinov2lab.lab.findings import Finding
from dinov2lab.lab.probe import try_all
from dinov2lab.store.folders import Workspace

ROOT = str(Path(__file__).parent.parent)
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
RAISES = "raise RuntimeError('operator torchvision::nms does not exist')\n"
QUITS = "print('loud'); raise SystemExit('no licence')\n"


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that are found before those that are installed; all that are slow are absent or broken."""
    place = tmp_path / "packages"
    bodies = {"torch": DIES, "torchvision": RAISES, "timm": RAISES, "optuna": QUITS, "faiss": DIES, "mlflow": RAISES}
    bodies |= dict.fromkeys(("scipy", "pandas", "xformers", "safetensors", "submitit"), "")
    for name, text in bodies.items():
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{ROOT}")
    return place


def test_what_an_import_does_to_its_process_is_told_and_the_others_are_tried_all_the_same(broken: Path) -> None:
    found = try_all(["torch", "optuna", "numpy", "torchvision", "faiss", "no_such_library", "PIL"])
    assert "signal 11" in found["torch"]["error"]
    assert "signal 11" in found["faiss"]["error"]
    assert found["optuna"]["error"] == "SystemExit: no licence"
    assert found["torchvision"]["error"] == "RuntimeError: operator torchvision::nms does not exist"
    assert found["no_such_library"] == {"name": "no_such_library", "absent": True}
    assert found["numpy"]["version"] == metadata.version("numpy")
    assert found["PIL"]["version"] == metadata.version("pillow")


def test_a_library_that_lacks_another_one_is_broken_not_absent(broken: Path) -> None:
    (broken / "timm" / "__init__.py").write_text("import no_such_library\n")
    assert "no_such_library" in try_all(["timm"])["timm"]["error"]


def test_with_a_torch_that_dies_the_command_says_what_mends_it_and_exits_with_1(broken: Path, tmp_path: Path) -> None:
    answer = dinov2lab(tmp_path, "doctor", "--json", PYTHONPATH=os.environ["PYTHONPATH"])
    assert (answer.returncode, answer.stderr) == (1, "")
    said = json.loads(answer.stdout)
    found = {each["what"]: each for each in said["found"]}
    assert said["works"] is False
    assert found["libraries"]["state"] == "broken"
    assert "torch: its import ends the process: signal 11" in found["libraries"]["there"]
    assert "operator torchvision::nms" in found["libraries"]["there"]
    assert "torch torchvision timm" in found["libraries"]["mend"]
    assert found["optuna"] | {"mend": ""} == {
        "what": "optuna",
        "state": "lacking",
        "there": "SystemExit: no licence",
        "cost": "no searches",
        "mend": "",
    }
    assert {"CUDA", "disk", "shared memory", "open files", "Slurm", "MLflow's store"} <= found.keys()


def test_a_pydantic_that_is_broken_is_a_finding_too_though_the_command_line_needs_it(
    broken: Path, tmp_path: Path
) -> None:
    (broken / "pydantic").mkdir()
    (broken / "pydantic" / "__init__.py").write_text("raise ImportError('pydantic_core is of another version')\n")
    answer = dinov2lab(tmp_path, "doctor", "--json", PYTHONPATH=os.environ["PYTHONPATH"])
    assert (answer.returncode, answer.stderr) == (1, "")
    libraries = next(each for each in json.loads(answer.stdout)["found"] if each["what"] == "libraries")
    assert "pydantic: ImportError: pydantic_core is of another version" in libraries["there"]


def test_a_check_that_fails_itself_is_a_finding_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> list[Finding]:
        raise OSError("no process can be started")

    monkeypatch.setattr(doctor, "_libraries", fails)
    found = {each.what: each for each in doctor.examine(tmp_path)}
    assert found["libraries"].state == "broken"
    assert "no process can be started" in found["libraries"].there
    assert {"python", "disk", "Slurm"} <= found.keys()


@pytest.mark.parametrize(
    ("torch", "torchvision", "asks", "mended"),
    [
        ("2.14.1", "0.29.1", "torch (>=2.14.0)", None),
        ("2.14.1+cpu", "0.29.1+cpu", "torch (==2.14.1)", None),
        ("2.14.1+cpu", "0.29.1", "torch (==2.14.1)", "torch==2.14.1 torchvision --index-url"),
        ("2.14.1", "0.28.0", "torch (==2.13.0)", "torch==2.14.1 torchvision"),
    ],
)
def test_a_torchvision_that_was_built_for_another_torch_is_named(
    torch: str, torchvision: str, asks: str, mended: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", {"torch": torch, "torchvision": torchvision}.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", asks])
    found = libraries._pair()
    assert bool(found) == bool(mended)
    assert not mended or mended in found[0].mend


def test_versions_that_were_not_asked_for_are_named_with_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"mlflow": "3.18.0", "optuna": "5.1.0"}
    monkeypatch.setattr(metadata, "version", known.__getitem__)
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["mlflow<3.18,>=3.17", "optuna<6,>=5", 'onnx; extra == "export"']
    )
    (found,) = libraries._versions()
    assert "mlflow 3.18.0" in found.there
    assert "optuna" not in found.there
    assert found.mend == "pip install 'mlflow<3.18,>=3.17'"


def test_a_gpu_that_torch_cannot_use_is_broken_and_none_at_all_is_not() -> None:
    there = {"version": "2.14.1", "cuda": "13.0", "gpus": [], "trouble": "no kernel image is available"}
    assert libraries._gpus(there).state == "broken"
    assert libraries._gpus(there | {"trouble": ""}).state == "lacking"
    card = {"name": "NVIDIA H100", "bytes": 80 * 2**30, "capability": "9.0"}
    assert libraries._gpus(there | {"trouble": "", "gpus": [card]}).there == "13.0: NVIDIA H100 (80 GiB)"


def database(place: Workspace, version: str) -> None:
    place.path.mkdir()
    with closing(sqlite3.connect(place.database)) as base:
        base.execute("CREATE TABLE alembic_version (version_num TEXT)")
        base.execute("INSERT INTO alembic_version VALUES (?)", (version,))
        base.commit()


@pytest.mark.parametrize(
    ("version", "says", "mended"),
    [
        (None, "schema", ""),
        ("451aebb31d03", "older MLflow", "dinov2lab sync"),
        ("ffffffffffff", "newer MLflow", "mv "),
    ],
)
def test_a_database_of_another_mlflow_is_told_from_ones_own(
    version: str | None, says: str, mended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    known, last = premises._schemas()
    assert last
    assert "451aebb31d03" in known
    database(Workspace(tmp_path / "lab"), version or last)
    found = premises.mlflow(Workspace(tmp_path / "lab"))
    assert says in found.there
    assert mended in found.mend
    assert (found.state == "ok") == (version is None)


def test_what_is_no_database_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = Workspace(tmp_path)
    place.database.write_text("half of a page " * 100)
    found = premises.mlflow(place)
    assert found.state == "lacking"
    assert found.mend.startswith(f"mv {place.database}")


@contextmanager
def server(code: int) -> Iterator[str]:
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    there = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=there.serve_forever, daemon=True).start()
    yield f"http://me:secret@127.0.0.1:{there.server_port}"
    there.shutdown()
    there.server_close()


def test_a_server_that_refuses_or_is_down_costs_freshness_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(403) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("me:secret@", ""))
        refused = premises.mlflow(Workspace(tmp_path))
        assert "allowed-hosts" in refused.mend
    down = premises.mlflow(Workspace(tmp_path))
    assert (refused.state, down.state) == ("lacking", "lacking")
    assert "sync" in down.cost
    with server(200) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("me:secret@", ""))
        assert premises.mlflow(Workspace(tmp_path)).state == "ok"


def test_no_line_holds_a_servers_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("http://me:secret@127.0.0.1:9", "postgresql://me:secret@127.0.0.1/mlflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert "secret" not in str(premises.mlflow(Workspace(tmp_path)))


@pytest.mark.parametrize(
    ("given", "used"), [("50000 100000\n", 1), ("250000 100000\n", 2), ("max 100000\n", 8), ("", 8)]
)
def test_a_container_that_gives_time_for_less_than_it_shows_has_so_many_cores(
    given: str, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "cpu.max").write_text(given)
    assert devices.cores() == used
    assert f"{used} are used" in premises.cores().there or used == 8
    assert commands.resources_for(None, "cpu")[0] == used


def test_the_limit_of_a_container_bounds_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(premises, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{3 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2 * 2**30}\n")
    assert premises.available_memory() == 2**30
    assert premises.memory().state == "lacking"


def test_few_open_files_are_told_with_as_many_as_may_be_had() -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))\n"
        "from dinov2lab.lab import premises; print(premises.open_files().mend)"
    )
    environment = os.environ | {"PYTHONPATH": ROOT}
    said = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert said == "ulimit -n 512\n"


def test_shared_memory_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(premises, "SHARED", tmp_path / "shm")
    assert "shm-size" in premises.shared_memory().mend


def test_a_slurm_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert premises.slurm().there.startswith("no sbatch")
    for name in ("sbatch", "squeue", "scontrol", "scancel", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sinfo: error: Unable to contact slurm controller' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    assert premises.slurm().mend == "unset SLURM_CONF"
    (tmp_path / "slurm.conf").write_text("")
    assert "Unable to contact" in premises.slurm().there
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho '2 idle'\n")
    assert premises.slurm() == Finding("Slurm", "ok", f"nodes: 2 idle ({tmp_path / 'slurm.conf'})")


@pytest.mark.system
def test_where_runs_work_it_says_so(tmp_path: Path) -> None:
    answer = dinov2lab(tmp_path, "doctor", "--json")
    assert answer.returncode == 0, answer.stdout
    found = {each["what"]: each for each in json.loads(answer.stdout)["found"]}
    assert found["libraries"]["state"] == "ok"
    assert found["faiss"]["state"] == "ok"
    assert not list(tmp_path.iterdir())
