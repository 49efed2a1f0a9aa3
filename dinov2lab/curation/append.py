"""What an earlier reading of a source has left, for a source to which images were added: by content, nothing is done twice.

An image is known by the hash of its bytes, wherever it stands now; old images are read for it and not decoded.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov2lab.curation.cache import stage_key
from dinov2lab.curation.scan import Seen
from dinov2lab.curation.vectors import Vectors
from dinov2lab.data.source import Source
from dinov2lab.store.manifest import ManifestFolder


def earlier_reading(cache: Path, source: Source) -> ManifestFolder | None:
    """The last whole reading, by this code, of a source of this name that was other than it is now."""
    now = {"uri": source.uri, "fingerprint": source.fingerprint()}
    for file in sorted(cache.glob("*/manifest.json"), key=lambda file: -file.stat().st_mtime_ns):
        record = json.loads(file.read_bytes())
        said = record["parameters"]
        whole = record["stage"] == "read" and said.keys() == now.keys() and said["uri"] == source.uri
        if whole and said != now and file.parent.name == stage_key(None, "read", said):
            return ManifestFolder(file.parent)
    return None


def contents(folder: ManifestFolder) -> dict[int, str]:
    """Of a reading: row of the source -> hash of its bytes, in the order of the rows."""
    kept = folder.table("kept")
    assert kept is not None  # every folder has it
    return dict(sorted(zip(kept["row"].to_pylist(), kept["content"].to_pylist(), strict=True)))


def seen_before(folder: ManifestFolder) -> Callable[[str], Seen | None]:
    """What scan() would find of an image of this content."""
    kept = folder.table("kept")
    assert kept is not None  # every folder has it
    place = {content: number for number, content in enumerate(kept["content"].to_pylist())}
    columns = kept.select(["content", "pixels", "width", "height"])
    thumbnails = np.load(folder.path / "thumbnails.npy", mmap_mode="r")

    def known(content: str) -> Seen | None:
        if (number := place.get(content)) is None:
            return None
        return columns.slice(number, 1).to_pylist()[0], thumbnails[number]

    return known


def taken_over(
    old: Vectors, before: ManifestFolder, now: ManifestFolder, compute: Callable[[list[int]], NDArray[Any]]
) -> Callable[[list[int]], NDArray[Any]]:
    """`compute` for rows of the source, asked only for those whose contents have none in `old`, the rows of `before`."""
    place = {content: number for number, content in enumerate(contents(before).values())}
    content = contents(now)

    def rows(wanted: list[int]) -> NDArray[Any]:
        where = np.array([place.get(content[row], -1) for row in wanted], np.int64)
        new = np.flatnonzero(where < 0)
        if len(new) == len(wanted):
            return compute(wanted)
        out = np.array(old[np.maximum(where, 0)])
        if len(new):
            out[new] = compute([wanted[number] for number in new.tolist()])
        return out

    return rows
