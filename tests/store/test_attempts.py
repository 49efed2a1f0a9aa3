"""Attempts count as long as they achieve nothing."""

import json
from pathlib import Path

from dinov2lab.store import attempts
from dinov2lab.store.result import RunFolder


def begun(folder: RunFolder, times: int) -> None:
    for _ in range(times):
        attempts.note(folder, "begun")


def row(folder: RunFolder, step: int) -> None:
    with folder.metrics.open("a") as file:
        file.write(json.dumps({"step": step, "images": step, "time": 0}) + "\n")


def test_three_deaths_on_one_step_are_enough(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    begun(folder, 2)
    assert attempts.exhausted(folder) is None
    begun(folder, 1)
    assert attempts.exhausted(folder) == "its process died 3 times without getting past step 0"


def test_a_new_row_or_checkpoint_is_progress(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    begun(folder, 2)
    row(folder, 8)
    begun(folder, 2)
    folder.checkpoint.write_bytes(b"saved")
    begun(folder, 2)
    assert attempts.exhausted(folder) is None
    begun(folder, 1)
    assert attempts.exhausted(folder) == "its process died 3 times without getting past step 8"


def test_who_left_when_asked_to_has_not_died(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for _ in range(5):
        begun(folder, 1)
        attempts.note(folder, "stopped")
    assert attempts.exhausted(folder) is None


def test_jobs_that_never_began_count_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for _ in range(3):
        attempts.note(folder, "submitted")
    assert attempts.unsendable(folder) == "3 jobs ended without getting past step 0"
    assert attempts.exhausted(folder) is None  # the third one may still begin


def test_a_line_that_a_kill_cut_short_is_no_attempt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    begun(folder, 2)
    with folder.attempts.open("a") as file:
        file.write('{"what": "beg')
    assert attempts.futile(folder, "begun") == 2
    begun(folder, 1)  # the half line stays a line of its own
    assert attempts.futile(folder, "begun") == 3
