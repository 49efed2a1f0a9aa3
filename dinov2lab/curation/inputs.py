"""What stages look at: sources as they were read, and the embeddings of their images, both from the cache.

M readable images of a source, in the order of their paths; D dimensions
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab.curation.cache import array_file, stage_folder
from dinov2lab.curation.embed import Mirrored, mirrored, read_thumbnails, thumbnail_features
from dinov2lab.curation.index import Floats, Ints
from dinov2lab.curation.scan import THUMBNAIL_PX, scan
from dinov2lab.data.source import Source, Unreadable
from dinov2lab.spec.curation import Embedder, Thumbnails
from dinov2lab.spec.identity import canonical
from dinov2lab.store.manifest import ManifestFolder

Embed = Callable[[Embedder, Source, Sequence[int]], NDArray[np.float32]]  # (N, D) of unit length, for rows of a source


class Read(NamedTuple):
    """A source as it was read."""

    source: Source
    folder: ManifestFolder
    rows: Ints  # (M,) indices into the source
    paths: tuple[str, ...]  # (M,)
    pixels: NDArray[np.str_]  # (M,) scan.pixel_key


@dataclass(frozen=True)
class Inputs:
    open: Callable[[str], Source]
    embed: Embed
    cache: Path
    device: str

    def read(self, source: Source) -> Read:
        parameters = {"uri": source.uri, "fingerprint": source.fingerprint()}
        folder = stage_folder(self.cache, None, "read", parameters, lambda: scan(source))
        kept = folder.table("kept")
        assert kept is not None  # every folder has it
        pixels = np.asarray(kept["pixels"].to_pylist(), str)
        return Read(source, folder, kept["row"].to_numpy(), tuple(kept["path"].to_pylist()), pixels)

    def features(self, embedder: Embedder, read: Read, mirror: bool = False) -> Floats:
        """(M, D) of all readable images, whichever of them a stage has left: the next stage asks for others."""
        if isinstance(embedder, Thumbnails):
            pictures = self._thumbnails(embedder, read)
            return thumbnail_features(mirrored(pictures) if mirror else pictures)
        source = Mirrored(read.source) if mirror else read.source
        features = self._array([canonical(embedder), mirror], read, lambda rows: self.embed(embedder, source, rows))
        if len(features) != len(read.rows) or not np.isfinite(features).all():
            raise ValueError(f"{read.source.uri}: the {embedder.kind} embedder gave no finite vector for every image")
        return features

    def _thumbnails(self, embedder: Thumbnails, read: Read) -> NDArray[np.uint8]:
        if embedder.px == THUMBNAIL_PX:
            pictures: NDArray[np.uint8] = np.load(read.folder.path / "thumbnails.npy", mmap_mode="r")
            return pictures
        draw = lambda rows: read_thumbnails(read.source, rows, embedder.px)  # noqa: E731
        return self._array(canonical(embedder), read, draw)

    def _array(self, identity: Any, read: Read, compute: Callable[[Sequence[int]], NDArray[Any]]) -> NDArray[Any]:
        """What `compute` gives for the rows of `read`, from the cache; it is asked in the order of the source."""

        def values() -> NDArray[Any]:
            order = np.argsort(read.rows)
            try:
                found = compute(read.rows[order].tolist())
            except Unreadable as error:
                raise ValueError(f"{read.source.uri}: an image was readable before and is now {error.reason}: "
                                 "the source changed while it was curated") from error  # fmt: skip
            sorted_back = np.empty_like(found)
            sorted_back[order] = found
            return sorted_back

        return array_file(self.cache.parent / "embeddings", [identity, read.folder.path.name], values)
