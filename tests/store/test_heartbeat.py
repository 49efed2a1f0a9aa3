"""A sign of life, also while clocks jump."""

import os
import time
from pathlib import Path

import pytest

from dinov2lab.store import heartbeat
from dinov2lab.store.result import RunFolder


@pytest.mark.parametrize(("seconds", "alive"), [(0, True), (-30, True), (-3600, False), (3600, False)])
def test_who_was_heard_of_lately_is_alive_whatever_the_clock_did(tmp_path: Path, seconds: int, alive: bool) -> None:
    folder = RunFolder(tmp_path)
    folder.heartbeat.write_text("{}")
    os.utime(folder.heartbeat, (time.time() + seconds,) * 2)
    assert heartbeat.alive(folder) is alive


def test_nobody_was_ever_heard_of(tmp_path: Path) -> None:
    assert not heartbeat.alive(RunFolder(tmp_path))
