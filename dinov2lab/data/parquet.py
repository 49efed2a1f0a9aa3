"""Rows of (path, image bytes, label, mask, depth, copy_of) in Parquet files, ours or of Hugging Face's layout.

There an image is a struct of bytes and path, and the names of classes stand in the file's metadata.

Paths and labels are read when a source is opened, images when they are asked for, by row group: the groups read last
are kept, up to a budget, so that a small file is decoded once and a large one never held whole. A large file that is
read in random order wants small row groups (a few hundred rows).
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dinov2lab.data.decode import Unreadable

BUDGET = 512 * 2**20  # bytes


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_image(kind: pa.DataType) -> bool:
    """Hugging Face's: {bytes, path}."""
    return bool(pa.types.is_struct(kind)) and any(each.name == "bytes" and _holds_bytes(each.type) for each in kind)


KINDS: dict[str, tuple[str, tuple[Callable[[pa.DataType], bool], ...]]] = {
    "path": ("text", (pa.types.is_string, pa.types.is_large_string)),
    "image": ("bytes", (_holds_bytes, _is_image)),
    "mask": ("bytes", (_holds_bytes, _is_image)),
    "depth": ("bytes", (_holds_bytes, _is_image)),
    "copy_of": ("text", (pa.types.is_string, pa.types.is_large_string)),
    "label": ("integers or text", (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)),
}
OPTIONAL = ("label", "mask", "depth", "copy_of")


class ParquetSource:
    """The rows of `files`, one after the other. Raises ValueError where they lack what a source needs.

    `budget`: bytes of decoded row groups that are kept in memory; at least two groups are.
    """

    def __init__(self, uri: str, files: Sequence[Path], budget: int = BUDGET) -> None:
        self.uri = uri
        self.files = tuple(files)
        self.budget = budget
        footers = [_footer(file) for file in self.files]
        self.paths = _paths(self.files, footers)
        self.labels, self.classes = _labels(self.files, footers)
        columns = set[str].intersection(*(set(footer.schema.to_arrow_schema().names) for footer in footers))
        self.masked, self.deep, self.paired = ("mask" in columns, "depth" in columns, "copy_of" in columns)
        groups = [
            (file, number, footer.row_group(number))
            for file, footer in zip(self.files, footers, strict=True)
            for number in range(footer.num_row_groups)
        ]
        self._groups = [(file, number) for file, number, _ in groups]
        self._starts = list(accumulate((group.num_rows for *_, group in groups), initial=0))
        largest = max(group.total_byte_size for *_, group in groups)
        # lru_cache holds no lock while a group is read: two threads may read one twice, and both are right.
        self._cells = lru_cache(max(2, budget // max(1, largest)))(_cells)

    def __reduce__(self) -> tuple[type["ParquetSource"], tuple[str, tuple[Path, ...], int]]:
        return type(self), (self.uri, self.files, self.budget)  # a worker opens the files anew

    def read(self, index: int) -> bytes:
        """The encoded image of one row; no bytes where the cell is null. Raises Unreadable."""
        return self._cell("image", index)

    def mask(self, index: int) -> bytes:
        """Of a `masked` source, the encoded mask of one row: grey, a class in each pixel, 255 for none. Raises Unreadable."""
        return self._cell("mask", index)

    def depth(self, index: int) -> bytes:
        """Of a `deep` source, the encoded depths of one row: grey of 8 or 16 bits, 0 for unknown. Raises Unreadable."""
        return self._cell("depth", index)

    def originals(self) -> list[str | None]:
        """Of a `paired` source, for each row the path, in another source, of what it is a copy of; None for no copy."""
        return [path for file in self.files for path in _column(file, "copy_of").to_pylist()]

    def _cell(self, column: str, index: int) -> bytes:
        if not 0 <= index < len(self.paths):
            raise IndexError(index)
        group = bisect_right(self._starts, index) - 1
        try:
            cell = self._cells(*self._groups[group], column)[index - self._starts[group]]
        except (OSError, pa.ArrowException, IndexError) as error:  # gone, or another file since it was opened
            raise Unreadable("vanished") from error
        value = cell.as_py() or b""
        if isinstance(value, dict):
            if value["bytes"] is None and value.get("path"):
                raise Unreadable("outside")  # its bytes are in another file, wherever that is now
            value = value["bytes"] or b""
        return bytes(value)

    def fingerprint(self) -> str:
        """Names, sizes and footers of the files, hashed."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
            digest.update(_footer_bytes(file))
        return digest.hexdigest()


def _cells(file: Path, group: int, column: str) -> pa.ChunkedArray:
    return pq.ParquetFile(file).read_row_group(group, columns=[column]).column(0)


def _column(file: Path, name: str) -> pa.ChunkedArray:
    return pq.ParquetFile(file).read(columns=[name]).column(0)


def _footer_bytes(file: Path) -> bytes:
    """The end of a Parquet file: the metadata, their length in 4 bytes, and the magic number."""
    with file.open("rb") as stream:
        stream.seek(-8, 2)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, 2)
        return stream.read(length)


def _footer(file: Path) -> pq.FileMetaData:
    try:
        footer = pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: not a Parquet file, or a broken one") from error
    types = {field.name: field.type for field in footer.schema.to_arrow_schema()}
    for name, (kind, accepts) in KINDS.items():
        if name == "path" and "image" in types and _is_image(types["image"]):
            continue
        if name not in types and name not in OPTIONAL:
            near = get_close_matches(name, types, 1, 0.5)
            raise ValueError(
                f"{file}: no column {name!r} ({kind}); its columns are {', '.join(types)}"
                + (f". Is it {near[0]!r}?" if near else "")
            )
        if name in types and not any(accept(types[name]) for accept in accepts):
            raise ValueError(f"{file}: column {name!r} holds {types[name]}, not {kind}")
    if not footer.num_rows:
        raise ValueError(f"{file}: holds no rows")
    return footer


def _paths(files: Sequence[Path], footers: Sequence[pq.FileMetaData]) -> tuple[str, ...]:
    """The column of paths; where no file has one, FILE/ROW of each image, and the name that its struct has for it."""
    named = ["path" in footer.schema.to_arrow_schema().names for footer in footers]
    if all(named):
        return _unique_paths([_column(file, "path") for file in files], files)
    if any(named):
        raise ValueError(f"{files[named.index(False)]}: no column 'path', which {files[named.index(True)]} has")
    above = Path(os.path.commonpath([file.parent for file in files]))
    return tuple(
        f"{file.relative_to(above)}/{row:07}{f' {name}' if name else ''}"
        for file in files
        for row, name in enumerate(_names_in_structs(file))
    )


def _names_in_structs(file: Path) -> list[str | None]:
    """Of each row's image, read without its bytes; none where the struct has no names."""
    footer = pq.read_metadata(file)
    kind = footer.schema.to_arrow_schema().field("image").type
    if not any(field.name == "path" and pa.types.is_string(field.type) for field in kind):
        return [None] * footer.num_rows
    column = pq.ParquetFile(file).read(columns=["image.path"]).column(0)
    return [value and value["path"] for value in column.to_pylist()]


def _class_names(footer: pq.FileMetaData) -> list[str] | None:
    """Those that Hugging Face's metadata give to the numbers in the column `label`."""
    told = (footer.schema.to_arrow_schema().metadata or {}).get(b"huggingface")
    try:
        names = json.loads(told or b"{}")["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _named(value: Any, names: list[str] | None) -> Any:
    """The name of a class, of its number; -1 stands for no label."""
    if names is None or not isinstance(value, int):
        return value
    return None if value == -1 else names[value] if 0 <= value < len(names) else f"{value}"


def _unique_paths(columns: list[pa.ChunkedArray], files: Sequence[Path]) -> tuple[str, ...]:
    paths = tuple(path for column in columns for path in column.to_pylist())
    if len(set(paths)) == len(paths) and None not in paths:
        return paths
    first: dict[str, Path] = {}
    for column, file in zip(columns, files, strict=True):
        for path in column.to_pylist():
            if path is None:
                raise ValueError(f"{file}: column 'path' is null in {column.null_count} rows")
            if path in first:
                raise ValueError(
                    f"the path {path!r} stands twice, in {first[path]} and in {file}: paths must be unique"
                )
            first[path] = file
    raise AssertionError("unreachable")


def _labels(files: Sequence[Path], footers: list[pq.FileMetaData]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Indices of the classes and their names: what the column holds, sorted. None where no row has a label."""
    named = ["label" in footer.schema.to_arrow_schema().names for footer in footers]
    if not any(named):
        return None, ()
    if not all(named):
        raise ValueError(f"{files[named.index(False)]}: no column 'label', which {files[named.index(True)]} has")
    names = [_class_names(footer) for footer in footers]
    if any(each != names[0] for each in names):
        raise ValueError(f"{files[0]}: its metadata name the classes otherwise than those of the other files")
    values = [_named(value, names[0]) for file in files for value in _column(file, "label").to_pylist()]
    if missing := values.count(None):
        if missing == len(values):
            return None, ()
        raise ValueError(f"{files[0]}: {missing} of {len(values)} labels are null; label every row or none")
    try:
        classes = sorted(set(values))
    except TypeError:
        raise ValueError(f"{files[0]}: labels are integers in some files and text in others") from None
    index = {value: number for number, value in enumerate(classes)}
    return np.array([index[value] for value in values], np.int64), tuple(str(value) for value in classes)
