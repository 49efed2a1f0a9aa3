"""`search --dashboard`: optuna-dashboard on the loopback, with a search from a journal and one from a database."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import synthetic
from tiny import interruptible

from dinov2lab.cli import main
from dinov2lab.lab import dashboard
from dinov2lab.lab.desk import Desk
from dinov2lab.spec.load_search import load_search

BASE = """
optim: {steps: 400, batch: 32, lr: 1.0e-3, warmup_steps: 0}
objective: {koleo: {group: 16}}
evaluation: {every: 1600}
"""
SEARCH = """
question: Which?
base: base.yaml
space:
  optim.lr: {log: [1.0e-5, 1.0e-1]}
  objective.teacher.centering: {choices: [sinkhorn, ema]}
metrics: {val/knn: maximize}
budget: {trials: 6}
pruner: {kind: asha, first: 3200, reduction: 2}
"""


def prepared(folder: Path) -> None:
    (folder / "experiments").mkdir()
    (folder / "experiments/base.yaml").write_text(BASE)
    (folder / "experiments/s.yaml").write_text(SEARCH)


def searched(folder: Path, storage: str | None) -> None:
    place = synthetic.workspace(folder)
    desk = Desk(load_search(folder / "experiments/s.yaml"), place, synthetic.Bench(place, paced=True), storage)
    while desk.turn():
        pass


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(address: str) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(address) as answer:
                return answer.read()
        except URLError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@contextmanager
def served(folder: Path, *words: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "dinov2lab.cli", "search", "s", "--dashboard", "--port", str(port), *words]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, preexec_fn=interruptible)
    try:
        yield f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
        ):  # wsgiref swallows a Ctrl-C that comes in the middle of an answer: the next one ends it
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            time.sleep(1)
        assert process.returncode in (0, -signal.SIGINT)  # the latter where one comes while it is ending already
    finally:
        process.kill()
        process.wait()


@pytest.mark.system
@pytest.mark.parametrize("storage", [None, "sqlite:///{}/trials.db"])
def test_it_shows_the_trials_of_either_storage(tmp_path: Path, storage: str | None) -> None:
    pytest.importorskip("optuna_dashboard", reason='pip install "dinov2lab[dashboard]"')
    url = storage and storage.format(tmp_path)
    prepared(tmp_path)
    searched(tmp_path, url)
    with served(tmp_path, *(["--storage", url] if url else [])) as address:
        assert b"<title>Optuna Dashboard</title>" in asked(address)
        (study,) = json.loads(asked(f"{address}/api/studies"))["study_summaries"]
        trials = json.loads(asked(f"{address}/api/studies/{study['study_id']}"))["trials"]
        told = json.loads((tmp_path / "lab/searches/s/trials.json").read_text())
        assert study["study_name"].split(".")[0] == "s"
        assert [trial["number"] for trial in trials] == [trial["number"] for trial in told]
        assert [trial["state"].lower() for trial in trials] == [
            {"complete": "complete", "pruned": "pruned", "failed": "fail"}[trial["state"]] for trial in told
        ]


def test_it_is_served_on_the_loopback_alone_and_its_mistakes_are_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for what it is installed for."""

    def said(*words: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as end:
            main(["search", "s", "--dashboard", *words])
        return end.value.code, capfd.readouterr().err

    def run_server(storage: Any, host: str, port: int) -> None:
        with closing(socket.socket()) as server:
            server.bind((host, port))
        calls.append((len(storage.get_all_studies()), host, port))

    monkeypatch.chdir(tmp_path)
    calls, stand_in = list[Any](), ModuleType("optuna_dashboard")
    stand_in.__spec__ = sys.__spec__
    stand_in.run_server = run_server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optuna_dashboard", stand_in)
    prepared(tmp_path)
    code, text = said()
    assert (code, text.count("\n"), "has not begun" in text) == (2, 1, True)
    searched(tmp_path, None)
    port = free_port()
    assert said("--port", str(port))[0] == 0
    assert calls == [(1, "127.0.0.1", port)]
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, text = said("--port", str(other.getsockname()[1]))
    assert (code, text.count("\n"), "cannot be used" in text) == (2, 1, True)
    monkeypatch.setattr(dashboard, "find_spec", lambda _: None)
    code, text = said()
    assert (code, text.count("\n"), "not installed here" in text) == (2, 1, True)
