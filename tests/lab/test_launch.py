"""The launcher on this machine: its workers, an interruption, two launchers at once, a GPU for each job."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import RECIPE, started, written

from dinov2lab import commands
from dinov2lab.data.source import Roots
from dinov2lab.lab import devices, staff
from dinov2lab.lab.bench import LocalBench
from dinov2lab.lab.devices import free_gpus
from dinov2lab.lab.workers import Worker
from dinov2lab.spec.points import Planned
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import OptimSpec, RunSpec
from dinov2lab.spec.study import Cell
from dinov2lab.store.folders import Workspace

ROOT = str(Path(__file__).parents[2])
LONG = RECIPE.replace("steps: 12", "steps: 30000").replace("every: 128", "every: 960000")
RUN = ("run", "path", "--device", "cpu", "--jobs", "2")


def descendants(session: int) -> list[int]:
    """The processes of a session that are left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[3]) == session and words[0] != "Z":
                found.append(int(entry.name))
    return found


def until_it_trains(folder: Path) -> None:
    deadline = time.monotonic() + 240
    while len(list(folder.glob("lab/runs/*/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.system
class TestInterruption:
    def test_once_it_ends_with_checkpoints_and_twice_at_once(self, tmp_path: Path) -> None:
        folder = written(tmp_path, LONG.replace("curation:", "curation: null # "))
        process = started(folder, *RUN)
        until_it_trains(folder)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "the same command goes on from here" in out
        assert "Traceback" not in out
        assert len(list(folder.glob("lab/runs/*/checkpoint.pt"))) == 2
        assert not descendants(process.pid)
        process = started(folder, *RUN)
        time.sleep(8)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        sent = time.monotonic()
        process.communicate(timeout=120)
        assert process.returncode == 130
        assert time.monotonic() - sent < 5
        assert not descendants(process.pid)


@pytest.mark.system
def test_two_launchers_share_one_study_and_stay_small(tmp_path: Path) -> None:
    folder = written(tmp_path, RECIPE)
    launchers = [started(folder, *RUN) for _ in range(2)]
    peak = 0.0
    while any(launcher.poll() is None for launcher in launchers):
        peak = max([peak, *(peak_mb(launcher.pid) for launcher in launchers)])
        time.sleep(0.1)
    outputs = [launcher.communicate()[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    begun = [file.read_text().count('"begun"') for file in folder.glob("lab/runs/*/attempts.jsonl")]
    assert begun == [1] * 5  # two arms, two seeds, an embedder
    assert all("report  reports/path/index.html" in text for text in outputs)
    assert 0 < peak < 200


def peak_mb(process: int) -> float:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs, the second of which is busy, as nvidia-smi would tell of them."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nprintf '0, GPU-a, 3\\n1, GPU-b, 40000\\n2, GPU-c, 0\\n'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "free"),
    [(None, ("0", "2")), ("0,1", ("0",)), ("2", ("2",)), ("GPU-c", ("GPU-c",)), ("", ()), ("1", ())],
)
def test_free_gpus_are_those_that_nobody_uses(
    nvidia: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, free: tuple[str, ...]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_gpus() == free


def test_without_nvidia_smi_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_gpus() == ()


def test_a_worker_sees_the_gpu_that_it_was_given(tmp_path: Path) -> None:
    worker = Worker({"workspace": str(tmp_path), "data": ".", "cache": ".", "resources": {}}, "7")
    try:
        words = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=7" in words
    finally:
        worker.kill()


def test_each_worker_of_a_search_has_a_gpu_of_its_own(
    nvidia: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Idle:
        run, begun = None, False

        def __init__(self, _: object, device: str | None) -> None:
            self.device = device

        def alive(self) -> bool:
            return True

        def compute(self, *_: object) -> None:
            pass

    monkeypatch.setattr(staff, "Worker", Idle)
    place, run = Workspace(tmp_path), Planned("a", RunSpec())
    for asked, seen in (("cuda", ["0", "2", "0"]), ("cpu", [None] * 3)):
        made = LocalBench(place, Roots(tmp_path, place.cache), Resources.model_validate({"device": asked}), 3)
        for _ in range(3):
            made.start(run)
        assert [worker.device for worker in made._staff.workers] == seen


@pytest.mark.system
def test_workers_that_cannot_begin_end_the_command(tmp_path: Path) -> None:
    """A package that cannot be imported, say: no endless row of processes."""
    folder = written(tmp_path, RECIPE)
    code = tmp_path / "code"
    code.mkdir()
    (code / "torch.py").write_text("raise ImportError('no torch today')\n")
    answer = subprocess.run(
        [sys.executable, "-m", "dinov2lab.cli", *RUN, "--set", "curation=null"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{code}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 2
    assert "workers died one after the other before they began a run, the last one of exit code 1" in answer.stderr
    assert answer.stderr.count("no torch today") >= 3


@pytest.mark.parametrize(
    ("flags", "said"), [("fpu avx2", True), ("fpu avx512_bf16", False), ("fpu amx_bf16 amx_tile", False)]
)
def test_products_that_the_processor_would_imitate_are_named_before_a_run(
    flags: str,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name : any\nflags : {flags}\n")
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    half = RunSpec(optim=OptimSpec(precision="bf16"))
    commands._name_imitation([Cell("a", 0, "run", half)], Resources(device="cpu"))
    assert ("imitates it" in capsys.readouterr().err) == said
    commands._name_imitation([Cell("a", 0, "run", RunSpec())], Resources(device="cpu"))
    assert not capsys.readouterr().err
