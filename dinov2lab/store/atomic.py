"""Writing that a kill at any instant leaves either undone or done; and locks that die with their holder."""

import fcntl
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a temporary file beside `path`, then rename it into place, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        save(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_folder(path: Path, save: Callable[[Path], None]) -> None:
    """Let `save` fill a temporary folder beside `path`, then rename it into place whole, durably. `path` must not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        save(temporary)
        for name in temporary.rglob("*"):
            if name.is_file():
                with name.open("rb") as file:
                    os.fsync(file.fileno())
        temporary.chmod(0o755)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` while inside; yields whether it was obtained (always, with `wait`).

    The operating system lets go of it when the holder dies, however it dies, also over NFS. The lock belongs to the opened
    file, not to the process (fcntl(2), "open file description locks"): whoever asks about it cannot let go of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):
            yield False
            return
        yield True  # closing the file lets go


def held(path: Path) -> bool:
    """Whether somebody holds the lock file `path`; asks without taking it, so that nobody finds it taken."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length (0: to the end), process


def _whole_file(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def sweep(folder: Path) -> None:
    """Remove what killed writers left behind in `folder`, at any depth; call it only while holding the folder's lock."""
    for leftover in list(folder.rglob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
