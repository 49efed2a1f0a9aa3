"""Near copies among all readable images of a pool: looked for once, whatever a stage has left of them.

They lie in a file beside the embeddings. Shards look for those of their images each. Of a pool that images were added to, the
pairs that were found before are taken over, and only what is new is looked for, among all, and among what is new.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinov2lab.curation import dedup
from dinov2lab.curation.cache import code_id
from dinov2lab.curation.dedup import Pairs, Rows
from dinov2lab.curation.inputs import Inputs, Read, texts
from dinov2lab.curation.neighbours import Recall
from dinov2lab.curation.vectors import Ints
from dinov2lab.spec.curation import Duplicates, Leaks
from dinov2lab.spec.embedders import Copies
from dinov2lab.spec.identity import canonical, content_id
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder


class Near(NamedTuple):
    pairs: Pairs  # of distinct images, numbered as dedup.distinct() numbers those of the pool
    taken_over: int  # how many of them were found before images were added


def rows_of(stage: Leaks | Duplicates, pool: Read, inputs: Inputs) -> Rows:
    mirrored = inputs.features(stage.embedder, pool, mirror=True) if stage.mirrored else None
    return Rows(inputs.features(stage.embedder, pool), mirrored, pool.pixels, isinstance(stage.embedder, Copies))


def near_copies(stage: Leaks | Duplicates, pool: Read, inputs: Inputs) -> Near:
    """Raises shards.Pending."""
    file = _file(stage, pool.folder, inputs)
    if not file.exists():
        rows = rows_of(stage, pool, inputs).chosen(dedup.distinct(pool.pixels)[0])
        if inputs.cut.parts > 1:
            found = Near(_by_parts(file, stage, rows, inputs), 0)
        with atomic.locked(file.with_name(f"{file.name}.lock")):
            if not file.exists():
                if inputs.cut.parts == 1:
                    found = _grown(stage, pool, rows, inputs) or Near(_found(stage, rows, inputs), 0)
                _write(file, found)
    return _read(file)


def _found(stage: Leaks | Duplicates, rows: Rows, inputs: Inputs, part: range | None = None) -> Pairs:
    inputs.tell("near copies", part.start if part else 0, len(rows.pixels))
    of = None if part is None else np.arange(part.start, part.stop)
    return dedup.near_copies(rows, stage.threshold, inputs.search, of=of)


def _by_parts(file: Path, stage: Leaks | Duplicates, rows: Rows, inputs: Inputs) -> Pairs:
    def name(part: range) -> Path:
        return file.with_stem(f"{file.stem}-{part.start}-{part.stop}")

    def work(part: range) -> None:
        with atomic.locked(file.with_name(f"{name(part).name}.lock")):
            if not name(part).exists():
                _write(name(part), Near(_found(stage, rows, inputs, part), 0))

    there = inputs.cut.do("near copies", inputs.cut.ranges(len(rows.pixels)), lambda part: name(part).exists(), work)
    return dedup.together([_read(name(part)).pairs for part in there])


def _grown(stage: Leaks | Duplicates, pool: Read, rows: Rows, inputs: Inputs) -> Near | None:
    """Of a pool that was searched before images were added to it."""
    before = inputs.earlier(pool.source)
    if before is None or not (file := _file(stage, before, inputs)).exists():
        return None
    now = _places(before, rows)
    known = _read(file).pairs
    known = known._replace(a=now[known.a], b=now[known.b])
    known = known.only((known.a >= 0) & (known.b >= 0))
    new = np.setdiff1d(np.arange(len(rows.pixels)), now)
    inputs.tell("near copies", len(rows.pixels) - len(new), len(rows.pixels))
    return Near(dedup.together([known, *dedup.with_new(rows, new, stage.threshold, inputs.search)]), len(known.a))


def _places(before: ManifestFolder, rows: Rows) -> Ints:
    """Which of `rows` each distinct image of an earlier reading is, or -1."""
    kept = before.table("kept")
    assert kept is not None  # every folder has it
    pixels = texts(kept, "pixels")
    place = {name: number for number, name in enumerate(rows.pixels.tolist())}
    return np.array([place.get(name, -1) for name in pixels[dedup.distinct(pixels)[0]].tolist()], np.int64)


def _file(stage: Leaks | Duplicates, pool: ManifestFolder, inputs: Inputs) -> Path:
    identity = [code_id(), pool.path.name, canonical(stage.embedder), stage.mirrored, stage.threshold]
    return inputs.cache.parent / "near" / f"{content_id(identity)}.parquet"


def _write(file: Path, near: Near) -> None:
    pairs = near.pairs
    said = {"recall": pairs.recall, "taken_over": near.taken_over, "saturated": pairs.saturated}
    table = pa.table({"a": pairs.a, "b": pairs.b, "score": pairs.score}).replace_schema_metadata(
        {"near": json.dumps(said)}
    )
    atomic.write(file, lambda path: pq.write_table(table, path))


def _read(file: Path) -> Near:
    table = pq.read_table(file)
    said = json.loads(table.schema.metadata[b"near"])
    recall = Recall(*said["recall"]) if said["recall"] else None
    a, b, score = (table[name].to_numpy() for name in ("a", "b", "score"))
    return Near(Pairs(a, b, score, said["saturated"], recall), said["taken_over"])
