"""Whether a file system still takes what is written to it."""

import os
from pathlib import Path

LEAST = 1 << 20  # bytes; less is as good as none


def trouble(path: Path) -> str | None:
    """What is wrong with the file system that holds `path`, and what to do; None where it takes more."""
    place = next(each for each in (path, *path.resolve().parents) if each.exists())
    found = os.statvfs(place)
    if found.f_flag & os.ST_RDONLY:
        return f"{path}: is on a file system that is read-only; choose another --workspace"
    if found.f_bavail * found.f_frsize < LEAST:
        return f"{path}: no space is left; `dinov2lab gc` shows what no study needs, and then the same command goes on"
    return None
