"""What the names in a folder of images tell: what is for training and what for testing, and whether folders are classes.

Imports no torch, so that a folder with nothing in it is refused at once.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dinov2lab.beginning.workspace import LINK, shown
from dinov2lab.data.source import FolderSource

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there
PLAIN = re.compile(r"[\w+=-][\w .+=-]*")  # a name that reads well in a URI
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
LEAST_OF_A_CLASS = 2  # on average: else folders are most likely not classes


class Layout(NamedTuple):
    """Paths are relative to the folder; "" is the folder itself."""

    train: str = ""
    test: str | None = None
    classes: Mapping[str, int] = MappingProxyType({})  # the images to train on, by class; empty where they have none
    images: int = 0  # files to train on
    tested: int = 0  # files to test on
    endings: Mapping[str, int] = MappingProxyType({})  # of the names of files to train on
    notes: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        return _uri(self.train)

    @property
    def test_uri(self) -> str | None:
        return _uri(self.test) if self.test is not None else None

    @property
    def labelled(self) -> bool:
        return bool(self.classes)


def _uri(folder: str) -> str:
    return f"folder:{LINK}/{folder}".rstrip("/")


def layout_of(folder: Path, place: Path) -> Layout:
    """Of the images in `folder`, for a workspace in `place`. Raises ValueError, in a line, where there is none to be read."""
    if not folder.exists():
        near = get_close_matches(folder.name, os.listdir(folder.parent) if folder.parent.is_dir() else [], 1)
        hint = f"; the nearest name there is {near[0]!r}" if near else ""
        raise ValueError(f"--images {shown(folder)}: there is no such folder{hint}")
    if not folder.is_dir():
        hint = "; a recipe reads it as data: {train: parquet:FILE}" if folder.suffix == ".parquet" else ""
        raise ValueError(f"--images {shown(folder)}: is a file, not a folder of images{hint}")
    if place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{shown(place)}: lies in the folder of images, and would be read as one; choose another place"
        )
    try:
        return read(FolderSource(f"--images {shown(folder)}", folder).paths)
    except ValueError as error:  # which may name it as it is, with whatever is in its name
        raise ValueError(str(error).replace(str(folder), shown(folder))) from None


def read(paths: Sequence[str]) -> Layout:
    """The layout of files with these `paths`, of which there is at least one."""
    above = _single_folder(paths)
    inside = [path.removeprefix(above) for path in paths]
    tops = {path.split("/", 1)[0] for path in inside if "/" in path}
    by_name = {name.lower(): name for name in sorted(tops, reverse=True)}
    train, test = (next((by_name[name] for name in names if name in by_name), None) for names in (TRAIN, TEST))
    if train is None:
        return _described(Layout(above.rstrip("/")), inside)
    own = _below(train, inside)
    found = _described(Layout(above + train), own)
    beside = len(inside) - len(own)
    if test is None:
        return found._replace(notes=(*found.notes, *_unused(beside, train)))
    tested = _below(test, inside)
    why = _unfit(found, tested)
    notes = (
        *found.notes,
        *([f"{test}/ is not tested on: {why}"] if why else []),
        *_unused(beside - len(tested), f"{train}/ and {test}"),
    )
    return found._replace(notes=notes) if why else found._replace(test=above + test, tested=len(tested), notes=notes)


def _single_folder(paths: Sequence[str]) -> str:
    """The folders, with a slash behind, that all paths begin with, as far as their names are plain and no split's."""
    above = ""
    while True:
        top, slash, _ = paths[0].removeprefix(above).partition("/")
        named = PLAIN.fullmatch(top) and top.lower() not in TRAIN
        if not (slash and named and all(path.startswith(f"{above}{top}/") for path in paths)):
            return above
        above += f"{top}/"


def _below(folder: str, paths: Sequence[str]) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/")]


def classes_of(paths: Sequence[str]) -> dict[str, int]:
    """How many files each first folder has; none where a file lies in no folder, or there are not two of them."""
    counts = Counter(path.split("/", 1)[0] for path in paths) if all("/" in path for path in paths) else {}
    return dict(sorted(counts.items())) if len(counts) > 1 else {}


def _described(layout: Layout, paths: Sequence[str]) -> Layout:
    """With what `paths`, of its files to train on, tell."""
    classes, notes = classes_of(paths), []
    if classes and len(paths) < LEAST_OF_A_CLASS * len(classes):
        notes.append(f"{len(classes):,} folders for {len(paths):,} files are taken for no classes")
        classes = {}
    found = (os.path.splitext(path)[1].lower() for path in paths)
    endings = Counter(
        ending if re.fullmatch(r"\.\w{1,8}", ending) else "other" if ending else "none" for ending in found
    )
    if archives := sum(endings[ending] for ending in ARCHIVES):
        notes.append(f"{archives:,} archives are not looked into: unpack them first")
    return layout._replace(
        classes=classes, images=len(paths), endings=dict(endings.most_common()), notes=(*layout.notes, *notes)
    )


def _unfit(found: Layout, tested: Sequence[str]) -> str:
    """Why images with these paths cannot test what is learnt of `found`."""
    if not found.labelled:
        return "the images to train on have no classes"
    theirs = classes_of(tested)
    if not theirs:
        return "it has no folder for each class"
    unknown = sorted(set(theirs) - set(found.classes))
    return f"class {unknown[0]!r} is none of those to train on" if unknown else ""


def _unused(count: int, named: str) -> list[str]:
    return [f"{count:,} files outside of {named}/ are not used"] if count else []
