"""Arrays on disk that are written row by row and read where they lie; never held whole, and gone on with after a kill.

Nothing is written through a mapped page: on a full disk that kills the process, where a plain write is an error in words.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dinov2lab.curation.shards import Cut
from dinov2lab.curation.vectors import Stacked, Vectors, blocks
from dinov2lab.spec.identity import content_id
from dinov2lab.store import atomic

ROWS = 4096  # computed and written at a time


def rows_file(
    cache: Path,
    identity: Any,
    count: int,
    compute: Callable[[int, int], NDArray[Any]],
    tell: Callable[[int], None] = lambda done: None,
    cut: Cut = Cut(),
) -> Vectors:
    """An array of `count` rows named by what it was computed from, memory-mapped.

    `compute` gives the rows from one place to another; they are written as they come, and a writer that was killed goes on
    after the last whole block. `tell` hears how many there are. With a `cut`, each part is a file until the process that
    does all of them puts them together.
    """
    file = rows_path(cache, identity)
    if not file.exists() and cut.parts > 1:
        pieces = _pieces(cache, identity, count, compute, tell, cut)
        if cut.mine is not None:
            return pieces
        compute = lambda start, stop: pieces[start:stop]
    if not file.exists():
        with atomic.locked(file.with_name(f"{file.name}.lock")):
            if not file.exists():
                part = file.with_suffix(".part")
                _fill(part, count, compute, tell)
                part.replace(file)
                for piece in cut.ranges(count, ROWS) if cut.parts > 1 else ():
                    rows_path(cache, _named(identity, piece)).unlink(missing_ok=True)
    loaded: NDArray[Any] = np.load(file, mmap_mode="r")
    return loaded


def rows_path(cache: Path, identity: Any) -> Path:
    return cache / f"{content_id(identity)}.npy"


def _named(identity: Any, part: range) -> list[Any]:
    return [identity, "rows", part.start, part.stop]


def _pieces(
    cache: Path,
    identity: Any,
    count: int,
    compute: Callable[[int, int], NDArray[Any]],
    tell: Callable[[int], None],
    cut: Cut,
) -> Stacked:
    """In whole blocks, so that an embedder sees the same images together as in one pass."""

    def piece(part: range) -> Vectors:
        shifted = lambda start, stop: compute(part.start + start, part.start + stop)
        return rows_file(cache, _named(identity, part), len(part), shifted, lambda done: tell(part.start + done))

    ranges = cut.ranges(count, ROWS)
    there = cut.do("vectors", ranges, lambda part: rows_path(cache, _named(identity, part)).exists(), piece)
    return Stacked([piece(part) for part in there])


def _fill(part: Path, count: int, compute: Callable[[int, int], NDArray[Any]], tell: Callable[[int], None]) -> None:
    done = _whole_rows(part, count)
    with part.open("ab" if done else "wb") as stream:
        while done < count or not stream.tell():
            rows = compute(done, min(done + ROWS, count))
            if not stream.tell():
                _write_header(stream, rows, count)
            _write(stream, rows)
            done += len(rows)
            tell(done)


def _whole_rows(part: Path, count: int) -> int:
    """How many rows of whole blocks a killed writer has left; what lies beyond is cut off."""
    done = 0
    if part.exists():
        with suppress(ValueError, OSError), part.open("rb") as stream:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            header, row = stream.tell(), int(np.prod(shape[1:])) * dtype.itemsize
            done = (part.stat().st_size - header) // row // ROWS * ROWS if shape[0] == count else 0
            os.truncate(part, header + done * row)
    return done


def write_rows(path: Path, values: Vectors) -> None:
    """As an .npy file, block by block."""
    with path.open("wb") as stream:
        _write_header(stream, np.asarray(values[:0]), len(values))
        for _, rows in blocks(values):
            _write(stream, rows)


def _write_header(stream: BinaryIO, rows: NDArray[Any], count: int) -> None:
    layout = {"descr": rows.dtype.str, "fortran_order": False, "shape": (count, *rows.shape[1:])}
    np.lib.format.write_array_header_1_0(stream, layout)


def _write(stream: BinaryIO, rows: NDArray[Any]) -> None:
    """Durably. Raises OSError with the file's name where the disk is full."""
    try:
        stream.write(np.ascontiguousarray(rows).data.cast("B") if rows.size else b"")
        stream.flush()
        os.fsync(stream.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, stream.name) from None
