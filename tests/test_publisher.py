"""The launcher's end of the process that writes reports, when that one dies at a bad moment."""

import subprocess
import sys
from pathlib import Path

import pytest

from dinov2lab.publisher import Publisher
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
