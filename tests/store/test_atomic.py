"""Files that are there whole or not at all, and locks that die with their holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import holder

from dinov2lab.store import atomic


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    process = holder(lock)
    with atomic.locked(lock, wait=False) as mine:
        assert not mine
    assert atomic.held(lock)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not atomic.held(lock)
    with atomic.locked(lock, wait=False) as mine:
        assert mine


def test_asking_about_an_own_lock_does_not_let_go_of_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with atomic.locked(lock):
        assert atomic.held(lock)
        question = (
            f"from pathlib import Path; from dinov2lab.store import atomic; print(atomic.held(Path({str(lock)!r})))"
        )
        other = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
        assert other.stdout == "True\n"
        with atomic.locked(lock, wait=False) as again:
            assert not again
    assert not atomic.held(lock)


def test_a_lock_that_nobody_made_is_not_held(tmp_path: Path) -> None:
    assert not atomic.held(tmp_path / "nothing")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    atomic.write_json(file, {"a": 1})

    def broken(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        atomic.write(file, broken)
    assert file.read_text() == '{\n "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["value.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        (path / "first").write_text("1")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        atomic.write_folder(tmp_path / "stage", broken)
    assert os.listdir(tmp_path) == []
    atomic.write_folder(tmp_path / "stage", lambda path: (path / "first").write_text("1"))
    assert os.listdir(tmp_path / "stage") == ["first"]


def test_sweeping_takes_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".result.json.abc.tmp").write_text("half")
    (tmp_path / "result.json").write_text("whole")
    atomic.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["result.json"]
