"""The launcher's end of the process that writes reports, when that one dies at a bad moment, and when it has just worked."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinov2lab.publisher import REST, Publisher
from dinov2lab.store.folders import Workspace


def test_a_process_that_dies_while_it_is_asked_costs_the_launcher_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen(
        [sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    dead.wait()
    with Publisher("study", "x", Workspace(tmp_path), tmp_path / "reports") as publisher:
        monkeypatch.setattr(publisher, "_process", dead)
        monkeypatch.setattr(publisher, "_running", lambda: dead)  # it had been alive a moment ago
        assert publisher.ask("report")
        with pytest.raises(ValueError, match="died twice"):
            publisher.finish()


def test_between_two_reports_it_rests_thirty_times_as_long_as_one_takes_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = [sys.executable, "-c", "import sys\nfor _ in sys.stdin: print('2.00 behind it is', flush=True)"]
    with Publisher("study", "x", Workspace(tmp_path), tmp_path / "reports") as publisher:
        monkeypatch.setattr(publisher, "_process", subprocess.Popen(dear, stdin=-1, stdout=-1, text=True))
        assert publisher.ask("mirror")
        assert publisher.finish() == "it is"  # the end waits for no rest
        now = time.monotonic()
        assert not publisher.ask("report")
        monkeypatch.setattr(time, "monotonic", lambda: now + 2 * REST - 5)
        assert not publisher.ask("report")
        monkeypatch.setattr(time, "monotonic", lambda: now + 2 * REST + 5)
        assert publisher.ask("report")
