"""WebDataset: plain tar files of samples, whose members share a name up to its first dot: 0001.jpg, 0001.cls, 0001.json.

Headers are read when a source is opened, images where they lie when they are asked for: nothing is unpacked, so that no name
and no link in an archive is ever a path on disk. What is wrong with a member makes it an unreadable row, under a reason that
is counted; where an archive is damaged between members, one row stands for all that cannot be found behind.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab.data.decode import Unreadable

IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "jp2", "avif"}
LABEL = "cls"
LONGEST_LABEL = 200  # bytes
MAX_BYTES = 2**30  # of one image
CHUNK = 2**20


class Row(NamedTuple):
    path: str
    file: Path
    offset: int  # of the image's bytes
    size: int
    fault: str | None  # why it cannot be read
    label: str | None


class _Sample(NamedTuple):
    images: list[tarfile.TarInfo]
    labels: list[tarfile.TarInfo]


class TarSource:
    """The images of `files`, one archive after the other. Raises ValueError for what is no tar, or is labelled in part."""

    def __init__(self, uri: str, files: Sequence[Path]) -> None:
        self.uri, self.files = uri, tuple(files)
        above = Path(os.path.commonpath([file.parent for file in self.files]))
        self._rows = _uniquely_named([row for file in self.files for row in _rows(file, file.relative_to(above))])
        if not self._rows:
            raise ValueError(f"{uri}: no images in {self.files[0]}{' and the others' if len(self.files) > 1 else ''}")
        self.paths = tuple(row.path for row in self._rows)
        self.labels, self.classes = _labels(uri, self._rows)

    def read(self, index: int) -> bytes:
        """The encoded image of one row. Raises Unreadable: outside (a link, a name that leaves the archive), not_an_image (no
        plain file), truncated, corrupt (of an archive), empty (a sample without an image), too_large, vanished.
        """
        row = self._rows[index]
        if row.fault:
            raise Unreadable(row.fault)
        try:
            with row.file.open("rb") as stream:
                stream.seek(row.offset)
                data = stream.read(row.size)
        except OSError as error:
            raise Unreadable("vanished") from error
        if len(data) < row.size:  # another file since it was opened
            raise Unreadable("vanished")
        return data

    def fingerprint(self) -> str:
        """Names, sizes and times (in ns) of the archives, hashed."""
        digest = hashlib.sha256()
        for file in self.files:
            status = file.stat()
            digest.update(os.fsencode(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
        return digest.hexdigest()


def _rows(file: Path, name: Path) -> Iterator[Row]:
    """One for each image of an archive, for each sample without one, and for damage."""
    samples, length, damage = dict[str, _Sample](), file.stat().st_size, ""
    for found in _members(file):
        if isinstance(found, str):
            damage = found
            break
        folder, _, base = found.name.rpartition("/")
        key, _, kind = base.partition(".")
        if found.isdir() or base.startswith("."):
            continue
        sample = samples.setdefault(f"{folder}/{key}" if folder else key, _Sample([], []))
        if kind.lower() in IMAGES:
            sample.images.append(found)
        elif kind.lower() == LABEL:
            sample.labels.append(found)
    with file.open("rb") as stream:
        for key, sample in samples.items():
            label = _label(file, stream.fileno(), sample.labels, length)
            for each in sample.images:
                fault = _fault(each, length)
                yield Row(_text(f"{name}/{each.name}"), file, each.offset_data, each.size, fault, label)
            if not sample.images:
                yield Row(_text(f"{name}/{key}"), file, 0, 0, "empty", label)
    if damage:
        yield Row(_text(f"{name}/{damage}"), file, 0, 0, damage.split()[0], None)


def _members(file: Path) -> Iterator[tarfile.TarInfo | str]:
    """The members of an archive, then a word: empty where it came to its end, else what is wrong, and from where on."""
    length = file.stat().st_size
    try:
        tar = tarfile.open(file, "r:")  # noqa: SIM115 (closed below; `with` would hide where it was opened in vain)
    except Exception as error:  # as below
        packed = " (a compressed one must be unpacked first: gunzip, unzstd)" if _compressed(file) else ""
        raise ValueError(f"{file}: not a tar file, or a broken one{packed}") from error
    with tar:
        last = None
        while True:
            try:
                member = tar.next()
            except Exception:  # headers of hostile bytes raise nearly anything
                break
            if member is None:
                break
            last = member
            yield member
        cut = last is not None and last.offset_data + last.size > length
        yield "" if cut else _damage(file, tar.offset, length)


def _damage(file: Path, end: int, length: int) -> str:
    """Of an archive whose last header was looked for at byte `end`: nothing, where zeros follow, as they must."""
    if end >= length:
        return f"truncated at byte {length}"
    with file.open("rb") as stream:
        stream.seek(end)
        while chunk := stream.read(CHUNK):
            if chunk.strip(b"\0"):
                return f"corrupt from byte {end}"
    return ""


def _compressed(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0"))


def _fault(member: tarfile.TarInfo, length: int) -> str | None:
    """Why an image cannot be read, from its header alone."""
    if member.islnk() or member.issym() or member.name.startswith("/") or ".." in member.name.split("/"):
        return "outside"
    if not member.isreg() or member.issparse():
        return "not_an_image"
    if member.size > MAX_BYTES:
        return "too_large"
    return "truncated" if member.offset_data + member.size > length else None


def _label(file: Path, descriptor: int, labels: list[tarfile.TarInfo], length: int) -> str | None:
    """The text of a sample's .cls; none where there is none that could be read."""
    if not labels or _fault(labels[0], length):
        return None
    if labels[0].size > LONGEST_LABEL:
        raise ValueError(f"{file}: {labels[0].name}: is too long for the name or number of a class")
    try:
        return os.pread(descriptor, labels[0].size, labels[0].offset_data).decode().strip() or None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: {labels[0].name}: is no text") from None


def _text(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")  # always valid text


def _uniquely_named(rows: list[Row]) -> list[Row]:
    """A name that stands twice in an archive has its place behind it."""
    seen = dict[str, int]()
    found = []
    for row in rows:
        seen[row.path] = seen.get(row.path, 0) + 1
        found.append(row if seen[row.path] == 1 else row._replace(path=f"{row.path}#{seen[row.path]}"))
    return found


def _labels(uri: str, rows: Sequence[Row]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Indices of the classes and their names, numbers in their order. A row that cannot be read needs none, and has 0."""
    given = {row.label for row in rows if row.label is not None}
    if not given:
        return None, ()
    if bare := [row.path for row in rows if row.label is None and not row.fault]:
        raise ValueError(
            f"{uri}: {len(bare)} of {len(rows)} images have no .{LABEL}, as {bare[0]}; label every one or none"
        )
    numbers = all(text.isascii() and text.isdigit() for text in given)
    classes = tuple(sorted(given, key=lambda text: (int(text), text) if numbers else (0, text)))
    index = {text: number for number, text in enumerate(classes)}
    return np.array([index[row.label] if row.label else 0 for row in rows], np.int64), classes
