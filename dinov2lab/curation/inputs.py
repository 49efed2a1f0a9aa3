"""What stages look at: sources as they were read, and the embeddings of their images, both from the cache.

M readable images of a source, in the order of their paths; D dimensions
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinov2lab.curation import copies
from dinov2lab.curation.append import earlier_reading, seen_before, taken_over
from dinov2lab.curation.arrays import rows_file, rows_path
from dinov2lab.curation.cache import Result, code_id, stage_folder, stage_key
from dinov2lab.curation.embed import Mirrored, mirrored, read_pictures, read_thumbnails, thumbnail_features
from dinov2lab.curation.filters import stored
from dinov2lab.curation.index import Search
from dinov2lab.curation.layout import layout_features
from dinov2lab.curation.quality import measured
from dinov2lab.curation.scan import THUMBNAIL_PX, merged, read_again, scan
from dinov2lab.curation.shards import Cut
from dinov2lab.curation.vectors import Chosen, Ints, Vectors
from dinov2lab.data.source import Source, Unreadable
from dinov2lab.spec.embedders import Copies, Embedder, Filters, Layout, Thumbnails
from dinov2lab.spec.identity import canonical, content_id
from dinov2lab.store.manifest import ManifestFolder

Embed = Callable[[Embedder, Source, Sequence[int]], NDArray[np.float32]]  # (N, D) of unit length, for rows of a source


class Read(NamedTuple):
    """A source as it was read."""

    source: Source
    folder: ManifestFolder
    rows: Ints  # (M,) indices into the source
    paths: tuple[str, ...]  # (M,)
    pixels: NDArray[np.bytes_]  # (M,) scan.pixel_key


Tell = Callable[[str, int, int], None]  # what is being done, how much is done, of how much
PART = 32768  # images that are read as one


WHOLE = Cut()


def silent(doing: str, done: int, of: int) -> None:
    pass


def _steps(rows: range) -> list[range]:
    return [range(start, min(start + PART, rows.stop)) for start in range(rows.start, rows.stop, PART)]


def texts(table: pa.Table, name: str) -> NDArray[np.bytes_]:
    """(N,) a column of text in UTF-8, which sorts alike and takes a quarter of numpy's text."""
    return np.asarray(table[name].cast(pa.binary()).to_pylist(), bytes)


@dataclass(frozen=True)
class Inputs:
    open: Callable[[str], Source]
    embed: Embed
    cache: Path
    search: Search
    tell: Tell = silent
    cut: Cut = WHOLE
    append: bool = False  # what was found of a source before images were added to it is taken over

    def earlier(self, source: Source) -> ManifestFolder | None:
        return earlier_reading(self.cache, source) if self.append else None

    def read(self, source: Source) -> Read:
        """A source as it was read, in parts: a kill costs no more than the part that was under way. Raises shards.Pending."""
        parameters = {"uri": source.uri, "fingerprint": source.fingerprint()}
        total = len(source.paths)
        small = total <= PART and self.cut.parts == 1
        steps = [_steps(rows) for rows in self.cut.ranges(total)]

        def which(rows: range) -> dict[str, Any]:
            return parameters | {"rows": [rows.start, rows.stop]}

        def part(rows: range) -> Result:
            before = self.earlier(source)
            tell = lambda done: self.tell(f"read {source.uri}", rows.start + done, total)
            return scan(source, rows, tell, *([seen_before(before)] if before else []))

        def piece(rows: range) -> ManifestFolder:
            return stage_folder(self.cache, None, "read", which(rows), partial(part, rows))

        def there(rows: range) -> bool:
            return all((self.cache / stage_key(None, "read", which(step))).exists() for step in _steps(rows))

        if not small and not (self.cache / stage_key(None, "read", parameters)).exists():
            ranges, work = self.cut.ranges(total), lambda rows: [piece(step) for step in _steps(rows)]
            self.cut.do(f"read {source.uri}", ranges, there, work)
        whole = lambda: part(range(total)) if small else merged([piece(step) for each in steps for step in each])
        folder = stage_folder(self.cache, None, "read", parameters, whole)
        self.tell(f"read {source.uri}", total, total)
        kept = folder.table("kept")
        assert kept is not None  # every folder has it
        return Read(source, folder, kept["row"].to_numpy(), tuple(kept["path"].to_pylist()), texts(kept, "pixels"))

    def features(self, embedder: Embedder | Copies, read: Read, mirror: bool = False) -> Vectors:
        """(M, D) of all readable images, whichever of them a stage has left: the next stage asks for others.

        Of the detector of copies (M, P, P, 3) pictures, which it mirrors itself.
        """
        if isinstance(embedder, Copies):
            draw = lambda wanted: read_pictures(read.source, wanted, copies.PX)
            return self._of_images([canonical(embedder), copies.PX], read, draw)
        if isinstance(embedder, Thumbnails):
            return self._of_pictures(canonical(embedder), embedder.px, read, mirror, thumbnail_features)
        if isinstance(embedder, Layout):
            return self._of_pictures(canonical(embedder), THUMBNAIL_PX, read, mirror, layout_features)
        if isinstance(embedder, Filters):
            return self._filter_features(embedder, read, mirror)
        source = Mirrored(read.source) if mirror else read.source

        def rows(wanted: list[int]) -> NDArray[np.float32]:
            found = self.embed(embedder, source, wanted)
            if len(found) != len(wanted) or not np.isfinite(found).all():
                name = f"the {embedder.kind} embedder"
                raise ValueError(f"{read.source.uri}: {name} gave no finite vector for every image")
            return found

        return self._of_images([canonical(embedder), mirror], read, rows, "embed mirrored" if mirror else "embed")

    def measures(self, read: Read) -> Vectors:
        """(M, 6) quality.MEASURES of all readable images."""

        def rows(wanted: list[int]) -> NDArray[np.float32]:
            return np.stack([measured(*read_again(read.source, row)) for row in wanted])

        return self._of_images("quality", read, rows, "measure")

    def _filter_features(self, embedder: Filters, read: Read, mirror: bool) -> Vectors:
        on = self.read(self.open(embedder.train))
        identity = [canonical(embedder), on.folder.path.name, code_id()]
        file = self.cache.parent / "filters" / f"{content_id(identity)}.npz"
        draw = lambda: read_thumbnails(on.source, on.rows.tolist(), embedder.px)
        features = lambda block: stored(file, draw, embedder).features(block)
        return self._of_pictures(identity, embedder.px, read, mirror, features)

    def _of_pictures(
        self,
        identity: Any,
        px: int,
        read: Read,
        mirror: bool,
        features: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    ) -> Vectors:
        """`features` of the (M, px, px, 3), some at a time."""
        pictures = self._drawn(px, read)

        def rows(start: int, stop: int) -> NDArray[np.float32]:
            block = pictures[start:stop]
            return features(mirrored(block) if mirror else block)

        return self._rows([identity, mirror], read, rows)

    def _drawn(self, px: int, read: Read) -> Vectors:
        """(M, px, px, 3) of all readable images."""
        if px == THUMBNAIL_PX:
            pictures: Vectors = np.load(read.folder.path / "thumbnails.npy", mmap_mode="r")
            return pictures
        draw = lambda rows: read_thumbnails(read.source, rows, px)
        return self._of_images(canonical(Thumbnails(px=px)), read, draw)

    def _of_images(
        self, identity: Any, read: Read, compute: Callable[[list[int]], NDArray[Any]], doing: str = "draw"
    ) -> Vectors:
        """What `compute` gives for the images of `read`: it is asked, and writes, in the order of the source."""
        order = np.argsort(read.rows)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        if before := self.earlier(read.source):
            file = rows_path(self.cache.parent / "embeddings", [[identity, "images"], before.path.name])
            if file.exists():
                compute = taken_over(np.load(file, mmap_mode="r"), before, read.folder, compute)

        def rows(start: int, stop: int) -> NDArray[Any]:
            try:
                return compute(read.rows[order[start:stop]].tolist())
            except Unreadable as error:
                raise ValueError(f"{read.source.uri}: an image was readable before and is now {error.reason}: "
                                 "the source changed while it was curated") from error  # fmt: skip

        written = self._rows([identity, "images"], read, rows, doing)
        return written if (np.diff(order) > 0).all() else Chosen(written, places)

    def _rows(
        self, identity: Any, read: Read, compute: Callable[[int, int], NDArray[Any]], doing: str = "embed"
    ) -> Vectors:
        cache, total = self.cache.parent / "embeddings", len(read.rows)
        tell = lambda done: self.tell(f"{doing} {read.source.uri}", done, total)
        return rows_file(cache, [identity, read.folder.path.name], total, compute, tell, self.cut)
