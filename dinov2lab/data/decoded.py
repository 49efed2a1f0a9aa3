"""Pixels of a set of images that fits, decoded once for all runs and processes: a memory-mapped file in the cache.

pixels.bin    the (H, W, 3) bytes of one image after the other
shapes.npy    (N, 2) their H and W
"""

import hashlib
import inspect
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinov2lab.data import decode
from dinov2lab.data.views import Pixels
from dinov2lab.spec.identity import content_id
from dinov2lab.store import atomic

SAMPLE = 32  # images from whose size that of all is told


class Decoded:
    def __init__(self, folder: Path) -> None:
        self._shapes: NDArray[np.int64] = np.load(folder / "shapes.npy")
        self._pixels = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")
        self._ends = np.cumsum(self._shapes.prod(1) * 3)

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def bytes_missing(self) -> int:
        return int(self._ends[-1]) - len(self._pixels)

    def __getitem__(self, index: int) -> Pixels:
        height, width = self._shapes[index].tolist()
        end = int(self._ends[index])
        return self._pixels[end - 3 * height * width : end].reshape(height, width, 3)


def decoded(cache: Path, images: str, count: int, read: Callable[[int], Pixels], budget: int) -> Decoded | None:
    """The pixels of `count` images, which `images` identifies, made by whoever asks first.

    None where they would take more than `budget` bytes, or cannot be written.
    """
    code = hashlib.sha256(Path(inspect.getfile(decode)).read_bytes()).hexdigest()
    folder = cache / content_id([images, code])
    if found := _whole(folder, count):
        return found
    if not count or _expected(count, read) > budget:
        return None
    with suppress(OSError), atomic.locked(cache / f"{folder.name}.lock"):  # a full disk costs no more than time
        if found := _whole(folder, count):  # another process was first
            return found
        for leftover in (*cache.glob(f".{folder.name}.*.tmp"), *([folder] if folder.exists() else [])):
            shutil.rmtree(leftover)
        atomic.write_folder(folder, lambda path: _write(path, count, read))
    return _whole(folder, count)


def _whole(folder: Path, count: int) -> Decoded | None:
    """None where it is not there, or damaged."""
    try:
        found = Decoded(folder)
    except (OSError, ValueError, EOFError):
        return None
    return found if len(found) == count and found.bytes_missing == 0 else None


def _expected(count: int, read: Callable[[int], Pixels]) -> float:
    some = range(0, count, max(1, count // SAMPLE))
    return count * float(np.mean([read(index).nbytes for index in some]))


def _write(folder: Path, count: int, read: Callable[[int], Pixels]) -> None:
    shapes = []
    with (folder / "pixels.bin").open("wb") as file:
        for index in range(count):
            pixels = read(index)
            shapes.append(pixels.shape[:2])
            file.write(np.ascontiguousarray(pixels).data)
    np.save(folder / "shapes.npy", np.array(shapes, dtype=np.int64))
