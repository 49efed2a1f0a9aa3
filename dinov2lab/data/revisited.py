"""Revisited Oxford and Paris (Radenovic et al. 2018, arXiv 1803.11285), or any folder of that form: revisited:roxford5k.

FOLDER/jpg holds the images; FOLDER/gnd_*.pkl, or the same as JSON, names those of the gallery (imlist) and of the queries
(qimlist), and for each query (gnd) its box and which of the gallery are easy, hard and junk. A pickle is read by an unpickler
that knows lists, numbers, text and arrays of numbers, and calls nothing that a file may name.
"""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.data.decode import Unreadable
from dinov2lab.data.source import Missing

GALLERY, QUERY = "gallery/", "query/"


class Truth(NamedTuple):
    """Of one query: places in the gallery."""

    easy: tuple[int, ...]
    hard: tuple[int, ...]
    junk: tuple[int, ...]


class RevisitedSource:
    """Rows: the gallery in its order, then the queries, cut to their boxes."""

    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self._folder = uri, folder
        self._truth_file = _truth_file(uri, folder)
        record = _read(uri, self._truth_file)
        gallery, queries, self._boxes, self.truth = _checked(uri, record)
        self._files = [folder / "jpg" / f"{name}.jpg" for name in (*gallery, *queries)]
        self.paths = (*(GALLERY + name for name in gallery), *(QUERY + name for name in queries))
        if len(set(self.paths)) < len(self.paths):
            raise ValueError(f"{uri}: an image stands twice in its gallery, or twice among its queries")

    def __reduce__(self) -> tuple[type["RevisitedSource"], tuple[str, Path]]:
        return type(self), (self.uri, self._folder)

    def read(self, index: int) -> bytes:
        query = index - (len(self.paths) - len(self._boxes))
        try:
            if query < 0 or self._boxes[query] is None:
                return self._files[index].read_bytes()
            with Image.open(self._files[index]) as image:
                cut = image.convert("RGB").crop(self._boxes[query])
        except (OSError, SyntaxError) as error:
            raise Unreadable("vanished") from error
        file = io.BytesIO()
        cut.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def fingerprint(self) -> str:
        """The ground truth, and sizes and times of the images, hashed."""
        digest = hashlib.sha256(self._truth_file.read_bytes())
        for file in self._files:
            state = file.stat() if file.exists() else None
            digest.update(f"{state.st_size} {state.st_mtime_ns}\0".encode() if state else b"gone\0")
        return digest.hexdigest()


def _truth_file(uri: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise Missing(f"{uri}: there is no {folder.absolute()}")
    found = sorted([*folder.glob("gnd*.json"), *folder.glob("gnd*.pkl")])
    if not found:
        raise Missing(f"{uri}: there is no ground truth {folder.absolute()}/gnd*.pkl or .json")
    return found[0]


def _read(uri: str, file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            return json.load(stream) if file.suffix == ".json" else Plain(stream, encoding="latin1").load()
    except (
        OSError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{uri}: {file.name} cannot be read: {reason}") from error


class Plain(pickle.Unpickler):
    """Beside what a pickle spells out itself it knows arrays of numbers, as lists; whatever else a file names is an error."""

    def find_class(self, module: str, name: str) -> Any:
        match module.replace("numpy._core", "numpy.core"), name:
            case ("numpy", "dtype"):
                return _Kind
            case ("numpy", "ndarray") | ("numpy.core.multiarray", "_reconstruct"):
                return _Array
            case ("numpy.core.multiarray", "scalar"):
                return _number
            case ("numpy.core.numeric", "_frombuffer"):
                return _from_buffer
            case ("_codecs", "encode") | ("builtins" | "__builtin__", "bytes"):
                return _raw
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no ground truth needs")


class _Kind:
    """In place of a dtype."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "iuf":
            raise pickle.UnpicklingError(f"it holds values of {self.dtype}, not numbers")

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(list[Any]):
    """In place of an array, its values: what it is rebuilt from is left alone, and what it holds comes by itself."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        values = np.frombuffer(_raw(raw), kind.dtype).reshape(shape, order="F" if by_columns else "C")
        self[:] = values.tolist()


def _number(kind: _Kind, raw: Any) -> Any:
    return np.frombuffer(_raw(raw), kind.dtype, 1)[0].item()


def _from_buffer(raw: Any, kind: _Kind, shape: Any, order: str) -> list[Any]:
    values: list[Any] = np.frombuffer(_raw(raw), kind.dtype).reshape(shape, order="F" if order == "F" else "C").tolist()
    return values


def _raw(text: Any = "", *_: Any) -> bytes:
    """Bytes, which old pickles spell as text."""
    return bytes(text) if isinstance(text, bytes | bytearray) else str(text).encode("latin1")


def _checked(uri: str, record: Any) -> tuple[list[str], list[str], list[Any], tuple[Truth, ...]]:
    """(gallery, queries, their boxes, their truths). Raises ValueError where anything else is there than there should be."""
    if not isinstance(record, Mapping) or not {"imlist", "qimlist", "gnd"} <= record.keys():
        raise ValueError(f"{uri}: its ground truth is no mapping with imlist, qimlist and gnd")
    gallery, queries = ([str(name) for name in record[key]] for key in ("imlist", "qimlist"))
    if len(record["gnd"]) != len(queries):
        raise ValueError(f"{uri}: {len(queries)} queries, and the truth of {len(record['gnd'])}")
    if strange := [name for name in (*gallery, *queries) if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"{uri}: {strange[0]!r} leads out of the folder")
    truths, boxes = [], []
    for name, each in zip(queries, record["gnd"], strict=True):
        places = [tuple(int(place) for place in each.get(key, ())) for key in Truth._fields]
        if any(not 0 <= place < len(gallery) for group in places for place in group):
            raise ValueError(f"{uri}: the truth of {name} names a place beyond its gallery of {len(gallery)}")
        if len({place for group in places for place in group}) < sum(map(len, places)):
            raise ValueError(f"{uri}: the truth of {name} names an image twice")
        truths.append(Truth(*places))
        box = tuple(round(float(end)) for end in each.get("bbx") or ())
        if box and not (len(box) == 4 and box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"{uri}: the box of {name} is none: {box}")
        boxes.append(box or None)
    return gallery, queries, boxes, tuple(truths)
