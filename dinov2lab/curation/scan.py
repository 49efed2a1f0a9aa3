"""The first look at a source: every image read and decoded once; what cannot be is dropped by a counted reason."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinov2lab.curation.cache import LEDGER, Result
from dinov2lab.curation.embed import thumbnail
from dinov2lab.curation.vectors import Chosen, Stacked
from dinov2lab.data.source import Source, Unreadable, decode
from dinov2lab.spec.embedders import Thumbnails
from dinov2lab.store.manifest import ManifestFolder

THUMBNAIL_PX = Thumbnails().px  # drawn in the same pass: copies are found by them unless a spec says otherwise

Seen = tuple[dict[str, Any], NDArray[np.uint8]]  # content, pixels, width, height; thumbnail

TOLD = 256  # images between two words on how far it is

KEPT = pa.schema(
    {
        "path": pa.string(),
        "score": pa.float64(),
        "witness": pa.string(),
        "row": pa.int64(),
        "content": pa.string(),
        "pixels": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
    }
)


def scan(
    source: Source,
    part: range,
    tell: Callable[[int], None] = lambda done: None,
    known: Callable[[str], Seen | None] = lambda content: None,
) -> Result:
    """The rows of `part` in the order of their paths, so that the order of the source is forgotten here; their thumbnails.

    The array `thumbnails` is (N, P, P, 3), of the kept rows. `tell` hears how many images have been looked at. What is
    `known` by its content is not decoded again.
    """
    thumbnails = np.empty((len(part), THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
    kept, fallen = [], []
    for place, row in enumerate(part):
        path = source.paths[row]
        if place % TOLD == 0:
            tell(place)
        try:
            data = source.read(row)
            content = hashlib.sha256(data).hexdigest()
            columns, thumbnails[place] = known(content) or _seen(data, content)
        except Unreadable as error:
            fallen.append({"path": path, "stage": "read", "reason": error.reason, "score": float("nan")})
            continue
        kept.append({"path": path, "score": float("nan"), "row": row} | columns)
    table = pa.Table.from_pylist(kept, KEPT).sort_by("path")
    places = table["row"].to_numpy() - part.start
    return Result(table, pa.Table.from_pylist(fallen, LEDGER), arrays={"thumbnails": thumbnails[places]})


def _seen(data: bytes, content: str) -> Seen:
    pixels = decode(data)
    columns = {"content": content, "pixels": pixel_key(pixels), "width": pixels.shape[1], "height": pixels.shape[0]}
    return columns, thumbnail(pixels, THUMBNAIL_PX)


def merged(parts: Sequence[ManifestFolder]) -> Result:
    """What one scan over all parts would give."""
    kept, fallen = (pa.concat_tables(_table(part, name) for part in parts) for name in ("kept", "ledger"))
    order = np.asarray(pc.sort_indices(kept["path"]), np.int64)
    pictures = Stacked([np.load(part.path / "thumbnails.npy", mmap_mode="r") for part in parts])
    return Result(kept.take(order), fallen, arrays={"thumbnails": Chosen(pictures, order)})


def _table(folder: ManifestFolder, name: str) -> pa.Table:
    table = folder.table(name)
    assert table is not None  # every folder has both
    return table


def read_again(source: Source, row: int) -> tuple[bytes, NDArray[np.uint8]]:
    """The bytes and pixels of a row that could be read before; raises ValueError, and names it, where it has changed."""
    try:
        data = source.read(row)
        return data, decode(data)
    except Unreadable as error:
        name = source.paths[row]
        raise ValueError(f"{source.uri}: {name} could be read before and is {error.reason} now") from error


def pixel_key(pixels: NDArray[np.uint8]) -> str:
    """Equal for images whose (H, W, 3) pixels are equal, and for blank images of one colour, whatever their size."""
    colour = pixels[0, 0]
    if (pixels[0] == colour).all() and (pixels == colour).all():  # nearly all others differ in the first row
        return "blank {} {} {}".format(*colour)
    key = hashlib.sha256(repr(pixels.shape).encode())
    key.update(np.ascontiguousarray(pixels).data)  # joined to the shape, large images would take longer by far
    return key.hexdigest()
