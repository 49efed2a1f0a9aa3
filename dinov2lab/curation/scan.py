"""The first look at a source: every image read and decoded once; what cannot be is dropped by a counted reason."""

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinov2lab.curation.cache import LEDGER, Result
from dinov2lab.curation.embed import thumbnail
from dinov2lab.data.source import Source, Unreadable, decode
from dinov2lab.spec.curation import Thumbnails

THUMBNAIL_PX = Thumbnails().px  # drawn in the same pass: copies are found by them unless a spec says otherwise

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


def scan(source: Source) -> Result:
    """All rows in the order of their paths, so that the order of the source is forgotten here; and their thumbnails.

    The array `thumbnails` is (N, P, P, 3), of the kept rows.
    """
    thumbnails = np.empty((len(source.paths), THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
    kept, fallen = [], []
    for row, path in enumerate(source.paths):
        try:
            data = source.read(row)
            pixels = decode(data)
        except Unreadable as error:
            fallen.append({"path": path, "stage": "read", "reason": error.reason, "score": float("nan")})
            continue
        thumbnails[row] = thumbnail(pixels, THUMBNAIL_PX)
        content = hashlib.sha256(data).hexdigest()
        known = {"path": path, "score": float("nan"), "row": row, "content": content, "pixels": pixel_key(pixels)}
        kept.append(known | {"width": pixels.shape[1], "height": pixels.shape[0]})
    table = pa.Table.from_pylist(kept, KEPT).sort_by("path")
    fates = pa.Table.from_pylist(fallen, LEDGER)
    return Result(table, fates, arrays={"thumbnails": thumbnails[table["row"].to_numpy()]})


def pixel_key(pixels: NDArray[np.uint8]) -> str:
    """Equal for images whose (H, W, 3) pixels are equal, and for blank images of one colour, whatever their size."""
    colour = pixels[0, 0]
    if (pixels == colour).all():
        return "blank {} {} {}".format(*colour)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
