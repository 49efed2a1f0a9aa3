"""Sources: a URI to rows of (path, bytes, label).

    toyweb:PART       the embedded default data, drawn once into the cache (data/toyweb.py)
    folder:PATH       an image folder; the first folder level names the class, where every image has one
    parquet:PATH      one file or a glob; columns path, image (bytes, or Hugging Face's {bytes, path}, which needs no path
                      beside it), and optionally label (integers or text), mask (bytes of
                      a grey image: a class in each pixel, 255 for none), depth (bytes of a grey image of 8 or 16 bits, white
                      for a depth of 1 and 0 for an unknown one) and copy_of (a path of another source, or null)
    webdataset:PATH   one plain tar or a glob of them, with samples such as 0001.jpg and, optionally, 0001.cls (data/tars.py)
    torchvision:NAME  a labelled data set of torchvision's, from files that are there (data/named.py)
    revisited:PATH    the gallery and the queries of revisited Oxford or Paris (data/revisited.py)

Relative paths are resolved against the data root, which is not part of a run's identity.
"""

import glob
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dinov2lab.data.decode import Unreadable, decode
from dinov2lab.data.parquet import ParquetSource

__all__ = ["FolderSource", "Missing", "ParquetSource", "Roots", "Source", "Unreadable", "decode", "labels_as"]
__all__ += ["open_source"]

SCHEMES = ("toyweb", "folder", "parquet", "webdataset", "torchvision", "revisited")
ENDINGS = {"parquet": "parquet", "webdataset": "tar"}  # of the files of a scheme that takes several
SIDECARS = {".txt", ".json", ".csv", ".md", ".xml", ".parquet"}  # of all else, the bytes say whether it is an image
MAX_BYTES = 2**30  # of one file: an archive or a film among the images is not read whole


class Missing(ValueError):
    """There is nothing where a URI points to."""


class Source(Protocol):
    """Rows of images in a fixed order."""

    uri: str
    paths: tuple[str, ...]  # unique, relative names
    labels: NDArray[np.int64] | None  # (N,) indices of `classes`
    classes: tuple[str, ...]  # sorted names; two sources may number one class differently: see `labels_as`

    def read(self, index: int) -> bytes:
        """The encoded image of one row. Raises Unreadable where the file is gone or cannot be opened."""
        ...

    def fingerprint(self) -> str:
        """Names, sizes and times of the files (or the Parquet footer), hashed: cheap, reads no image."""
        ...


@dataclass(frozen=True)
class Roots:
    """Where relative URIs start, and where the embedded data is drawn to."""

    data: Path
    cache: Path


def open_source(uri: str, roots: Roots) -> Source:
    """Raises Missing for a folder or file that is not there, another ValueError for an unknown scheme or missing columns.

    Either says it in a line or two.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest or scheme not in SCHEMES:
        near = get_close_matches(scheme.lower(), SCHEMES, 1)
        hint = f"; did you mean {near[0]}:{rest or '...'}?" if near else ""
        raise ValueError(
            f"source {uri!r}: it must be toyweb:PART, folder:PATH, parquet:PATH, webdataset:PATH, torchvision:NAME or"
            f" revisited:PATH{hint}"
        )
    match scheme:
        case "toyweb":
            from dinov2lab.data.toyweb import materialise

            return ToywebSource(uri, (materialise(rest, roots.cache),))
        case "folder":
            return FolderSource(uri, _existing(uri, rest, roots))
        case "webdataset":
            from dinov2lab.data.tars import TarSource

            return TarSource(uri, _files(uri, rest, roots))
        case "torchvision":
            from dinov2lab.data.named import NamedSource

            return NamedSource(uri, roots.data)
        case "revisited":
            from dinov2lab.data.revisited import RevisitedSource

            return RevisitedSource(uri, roots.data / rest)
        case _:
            return ParquetSource(uri, _files(uri, rest, roots))


def labels_as(source: Source, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """(N,) the labels of `source` as indices into another source's `classes`.

    Raises ValueError where `source` has no labels, or a class that is not among them.
    """
    if source.labels is None:
        raise ValueError(f"{source.uri}: has no labels")
    if unknown := set(source.classes) - set(classes):
        raise ValueError(f"{source.uri}: class {min(unknown)!r} is none of {', '.join(classes[:20])}")
    return np.array([classes.index(name) for name in source.classes], np.int64)[source.labels]


class ToywebSource(ParquetSource):
    def fingerprint(self) -> str:
        """The URI and the code that draws, hashed."""
        from dinov2lab.data.toyweb import version

        return hashlib.sha256(f"{self.uri} {version()}".encode()).hexdigest()


class FolderSource:
    """All files below `root`, sorted by name, but for hidden ones and SIDECARS; the suffix is not trusted beyond that.

    Links to folders are not followed. A link to a file is a row, which is unreadable where it leaves `root`.
    """

    def __init__(self, uri: str, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"{uri}: {root} is a file, not a folder" + _parquet_hint(root, uri))
        self.uri = uri
        self._root = os.path.realpath(root)
        self._names = sorted(_files_below(self._root))
        if not self._names:
            raise ValueError(
                f"{uri}: no images in {root} (hidden files, {' '.join(sorted(SIDECARS))} and linked folders aside)"
            )
        self.paths = tuple(
            os.fsencode(name).decode(errors="backslashreplace") for name in self._names
        )  # always valid text
        levels = [path.split("/", 1) for path in self.paths]
        labelled = all(len(level) > 1 for level in levels)
        self.classes = tuple(sorted({level[0] for level in levels})) if labelled else ()
        number = {name: index for index, name in enumerate(self.classes)}
        self.labels = np.array([number[level[0]] for level in levels], np.int64) if labelled else None

    def read(self, index: int) -> bytes:
        """The bytes of one file. Raises Unreadable: vanished, outside, not_an_image (a pipe, a socket), too_large."""
        file = os.path.join(self._root, self._names[index])
        try:
            if os.path.islink(file):
                file = os.path.realpath(file, strict=True)
                if not file.startswith(os.path.join(self._root, "")):
                    raise Unreadable("outside")
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("not_an_image")
            if status.st_size > MAX_BYTES:
                raise Unreadable("too_large")
            return Path(file).read_bytes()
        except OSError as error:
            raise Unreadable("vanished") from error

    def fingerprint(self) -> str:
        """Names, sizes and times (in ns) of the files, hashed."""
        digest = hashlib.sha256()
        for name in self._names:
            try:
                status = os.stat(os.path.join(self._root, name))
                digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
            except OSError:
                digest.update(os.fsencode(f"{name}\0vanished\0"))
        return digest.hexdigest()


def _files_below(root: str) -> Iterator[str]:
    """Names relative to `root`, with forward slashes."""

    def stop(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() not in SIDECARS:
                yield Path(folder, name).relative_to(root).as_posix()


def _files(uri: str, rest: str, roots: Roots) -> list[Path]:
    if any(sign in rest for sign in "*?[") and not os.path.exists(roots.data / rest):
        names = sorted(glob.glob(rest, root_dir=roots.data, recursive=True))
        files = [file for name in names if (file := roots.data / name).is_file()]
        if not files:
            raise Missing(f"{uri}: no file matches {(roots.data / rest).absolute()}" + _start(rest, roots))
        return files
    file = _existing(uri, rest, roots)
    if file.is_dir():
        scheme = uri.partition(":")[0]
        raise ValueError(
            f"{uri}: {file} is a folder; {scheme}:{rest.rstrip('/')}/*.{ENDINGS[scheme]} reads the files in it"
        )
    return [file]


def _existing(uri: str, rest: str, roots: Roots) -> Path:
    """The absolute path that a URI names; where there is none, the error names the nearest thing that exists."""
    path = (roots.data / rest).absolute()
    if os.path.exists(path):
        return path
    missing = next(part for part in (*reversed(path.parents), path) if not os.path.exists(part))
    names = os.listdir(missing.parent) if os.access(missing.parent, os.R_OK) and missing.parent.is_dir() else []
    near = get_close_matches(missing.name, names, 1)
    hint = f"; the nearest name in {missing.parent} is {near[0]!r}" if near else ""
    raise Missing(f"{uri}: there is no {path}{hint}" + _start(rest, roots))


def _start(rest: str, roots: Roots) -> str:
    return "" if os.path.isabs(rest) else f"\nrelative paths start at --data-root, now {roots.data.absolute()}"


def _parquet_hint(file: Path, uri: str) -> str:
    return f"; did you mean parquet:{uri.partition(':')[2]}?" if file.suffix == ".parquet" else ""
