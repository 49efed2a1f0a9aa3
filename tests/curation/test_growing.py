"""Pools that grow, and curation that several processes share: what comes out is what one pass over all gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from curated import Lab, fates, without_row
from hypothesis import given
from hypothesis import strategies as st
from memory import MemorySource, encoded, picture
from PIL import Image, ImageOps

from dinov2lab.curation import arrays, inputs, near, scan
from dinov2lab.curation.shards import Cut, Pending
from dinov2lab.data.source import Source, Unreadable, decode
from dinov2lab.spec.curation import CurationSpec, Duplicates, Leaks, Quality, Retrieve
from dinov2lab.spec.embedders import Copies, Embedder, TimmEmbedder
from dinov2lab.store.manifest import ManifestFolder

EMBEDDER = TimmEmbedder(kind="timm", name="x", px=8)
SPEC = CurationSpec(
    leaks=Leaks(against=("memory:test",), embedder=EMBEDDER, threshold=0.97, rule="component"),
    stages=(
        Quality(stage="quality", min_px=8),
        Duplicates(stage="duplicates", embedder=EMBEDDER, threshold=0.9),
        Retrieve(stage="retrieve", queries="memory:test", embedder=EMBEDDER, images=20),
    ),
)
COPIES = CurationSpec(stages=(Duplicates(stage="duplicates", embedder=Copies(kind="copies"), threshold=0.8),))


class Watched:
    """An embedder that counts."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, embedder: Embedder, source: Source, rows: Sequence[int]) -> np.ndarray:
        self.images += len(rows)
        small = [np.asarray(Image.fromarray(decode(source.read(row))).resize((8, 8)), float).ravel() for row in rows]
        vectors = np.stack(small) - 127.3
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def web() -> dict[str, bytes | Unreadable]:
    """Pictures, some with a smaller or a mirrored copy or an exact one, and a file that is none, in a shuffled order."""
    images: dict[str, bytes | Unreadable] = {"broken": b"no image"}
    for number in range(24):
        images[f"{number:02}"] = encoded(picture(number))
    for number in range(8):
        images[f"{number:02} again"] = encoded(picture(number))
        images[f"small {number:02}"] = encoded(picture(number).resize((30, 27)))
        images[f"turned {number + 4:02}"] = encoded(ImageOps.mirror(picture(number + 4)).resize((33, 30)))
    order = np.random.default_rng(0).permutation(len(images))
    return {list(images)[place]: images[list(images)[place]] for place in order}


def lab(path) -> Lab:
    return Lab(path, MemorySource("memory:test", {f"t{n}": encoded(picture(n).resize((38, 34))) for n in (3, 20)}))


def said(folder: ManifestFolder) -> list[object]:
    names = [name for name in ("kept", "ledger", "pairs", "leaks") if folder.table(name) is not None]
    return [folder.read().id, *(without_row(folder.table(name)) for name in names)]


@pytest.mark.parametrize("spec", [SPEC, COPIES, CurationSpec(stages=(Duplicates(stage="duplicates"),))])
def test_images_that_are_added_enter_without_doing_the_old_ones_again(monkeypatch, tmp_path, spec):
    images, whole, grown = web(), Watched(), Watched()
    pool = MemorySource("memory:pool", images)
    before = pool.only(pool.paths[: len(pool.paths) // 2])
    once = lab(tmp_path / "once").curate(pool, spec, embed=whole)
    place = lab(tmp_path / "grown")
    place.curate(before, spec, embed=grown)
    decoded = []
    monkeypatch.setattr(scan, "decode", lambda data: decoded.append(data) or decode(data))
    had, grown.images = grown.images, 0
    appended = place.curate(pool, spec, embed=grown, append=True)
    assert said(appended) == said(once)
    measured = spec is SPEC  # once more, by the stage for quality
    assert len(decoded) <= (1 + measured) * (len(pool.paths) - len(before.paths)) + 1  # what is no image is tried again
    if spec is SPEC:
        assert grown.images <= 2 * (len(pool.paths) - len(before.paths))  # and their mirror images
        assert had + grown.images < whole.images + 4
    assert any(record.counts.get("pairs_taken_over") for record in appended.funnel())


def test_a_search_that_was_stopped_while_it_was_written_leaves_nothing(monkeypatch, tmp_path):
    pool, spec = MemorySource("memory:pool", web()), CurationSpec(stages=(Duplicates(stage="duplicates"),))
    place, save = lab(tmp_path), near.pq.write_table

    def stopped(table: object, path: Path) -> None:
        if path.parent.name == "near":
            path.write_bytes(b"half of it")
            (path.parent / f"{path.name[:-4]}again.tmp").write_bytes(b"what a kill would leave")
            raise KeyboardInterrupt
        save(table, path)

    monkeypatch.setattr(near.pq, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        place.curate(pool, spec)
    monkeypatch.undo()
    assert said(place.curate(pool, spec)) == said(lab(tmp_path / "once").curate(pool, spec))
    assert len(list((tmp_path / "cache/near").iterdir())) == 2  # the pairs and their lock


def test_an_image_that_changed_or_left_is_noticed(tmp_path):
    images = web()
    place = lab(tmp_path / "grown")
    place.curate(MemorySource("memory:pool", images), SPEC, embed=Watched())
    del images["small 01"]
    images["05"] = encoded(picture(77))
    now = MemorySource("memory:pool", images)
    assert said(place.curate(now, SPEC, embed=Watched(), append=True)) == said(
        lab(tmp_path / "once").curate(now, SPEC, embed=Watched())
    )


def test_an_image_that_is_added_may_take_the_place_of_an_old_one(tmp_path):
    """Appended or not, who stays is decided anew."""
    images = {"b": encoded(picture(1)), "c": encoded(picture(2))}
    place, spec = lab(tmp_path), CurationSpec(stages=(Duplicates(stage="duplicates"),))
    place.curate(MemorySource("memory:pool", images), spec)
    after = place.curate(MemorySource("memory:pool", images | {"a": encoded(picture(1))}), spec, append=True)
    assert fates(after)["b"]["witness"] == "a"


@pytest.mark.parametrize(("spec", "shards"), [(SPEC, 5), (COPIES, 2)])
def test_shards_leave_what_one_pass_leaves(monkeypatch, tmp_path, spec, shards):
    monkeypatch.setattr(arrays, "ROWS", 8)
    monkeypatch.setattr(inputs, "PART", 7)
    pool, embed = MemorySource("memory:pool", web()), Watched()
    once = lab(tmp_path / "once").curate(pool, spec, embed=embed)
    place, shared = lab(tmp_path / "shared"), Watched()
    rounds = [[place.share(pool, spec, Cut(shards, n), embed=shared) for n in range(shards)] for _ in range(3)]
    assert rounds[0][0][0] == f"read memory:pool: {shards - 1} of {shards} parts are still to come"
    assert rounds[2][-1] == []
    decoded = []
    monkeypatch.setattr(scan, "decode", lambda data: decoded.append(data) or decode(data))
    if spec is SPEC:
        assert shared.images == embed.images
    merged = place.curate(pool, spec, embed=shared, shards=shards)
    assert not decoded
    assert said(merged) == said(once)
    assert [record.counts for record in merged.funnel()] == [record.counts for record in once.funnel()]
    files = [
        {file.name: file for file in (tmp_path / name).glob("cache/embeddings/*.npy")} for name in ("once", "shared")
    ]
    both = files[0].keys() & files[1].keys()
    assert both
    assert all(files[0][name].read_bytes() == files[1][name].read_bytes() for name in both)  # bit for bit


def test_a_shard_that_died_is_done_by_the_process_that_merges(monkeypatch, tmp_path):
    monkeypatch.setattr(arrays, "ROWS", 8)
    pool = MemorySource("memory:pool", web())
    place = lab(tmp_path / "shared")
    for _ in range(3):
        for number in (0, 2):
            place.share(pool, SPEC, Cut(3, number), embed=Watched())
    once = lab(tmp_path / "once").curate(pool, SPEC, embed=Watched())
    assert said(place.curate(pool, SPEC, embed=Watched(), shards=3)) == said(once)


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 9))
def test_parts_are_whole_units_and_hold_everything_once(total, parts, unit):
    ranges = Cut(parts).ranges(total, unit)
    assert len(ranges) == parts
    assert [row for part in ranges for row in part] == list(range(total))
    assert all(part.start % unit == 0 for part in ranges if part)


def test_who_does_all_parts_waits_for_nobody():
    done = set()
    assert Cut(3).do("x", Cut(3).ranges(7), done.__contains__, done.add) == [range(2), range(2, 4), range(4, 7)]
    with pytest.raises(Pending, match="x: 2 of 3 parts are still to come"):
        Cut(3, 1).do("x", Cut(3).ranges(9), {range(3, 6)}.__contains__, done.add)
