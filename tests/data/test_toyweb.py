"""The embedded data: the same bytes for the same name, and a truth that holds."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinov2lab.data import drawing
from dinov2lab.data.decode import Unreadable, decode
from dinov2lab.data.toyweb import SIZES, materialise

POOL = "pool?images=900"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def rows(part: str, cache: Path) -> list[dict[str, object]]:
    """The images of a part with the truth beside them."""
    file = materialise(part, cache)
    table, truth = pq.read_table(file).to_pylist(), pq.read_table(file.with_suffix(".truth.parquet")).to_pylist()
    assert [row["path"] for row in table] == [row["path"] for row in truth]
    return [row | true for row, true in zip(table, truth, strict=True)]


@pytest.mark.parametrize("part", [POOL, "queries?images=40", "test?images=40&seed=3"])
def test_a_part_has_as_many_images_as_asked_and_the_same_bytes_wherever_it_is_drawn(
    part: str, cache: Path, tmp_path: Path
) -> None:
    here, there = rows(part, cache), rows(part, tmp_path)
    assert here == there
    assert len(here) == len({row["path"] for row in here}) == (900 if part == POOL else 40)


def test_another_seed_or_part_is_another_drawing(cache: Path) -> None:
    parts = ["queries?images=40", "queries?images=40&seed=1", "test?images=40"]
    images = [{row["image"] for row in rows(part, cache)} for part in parts]
    assert len(set().union(*images)) == sum(map(len, images))


def test_a_part_is_drawn_once(cache: Path) -> None:
    file = materialise("test?images=40", cache)
    before = file.stat().st_mtime_ns
    assert materialise("test?images=40&seed=0", cache) == file
    assert file.stat().st_mtime_ns == before


def test_labelled_parts_hold_every_concept_equally_often_and_the_pool_has_a_long_tail(cache: Path) -> None:
    queries = rows("queries?images=160", cache)
    assert set(Counter(row["label"] for row in queries).values()) == {10}
    assert all(row["concept"] == str(row["label"]) and row["origin"] == "concept" for row in queries)
    pool = rows(POOL, cache)
    assert "label" not in pool[0]
    often = Counter(row["concept"] for row in pool if row["origin"] == "concept" and row["defect"] is None)
    assert len(often) == drawing.CONCEPTS
    assert max(often.values()) > 6 * min(often.values())


def test_the_pool_holds_its_stated_shares(cache: Path) -> None:
    pool = rows(POOL, cache)
    originals = Counter(row["origin"] for row in pool if not row["duplicate_of"] and not row["leak_of"])
    assert originals == {"concept": 405, "distractor": 315, "junk": 72, "corrupt": 9}
    assert sum(row["leak_of"] is not None for row in pool) == 18
    assert sum(row["duplicate_of"] is not None for row in pool) == 81


def test_copies_are_what_the_truth_says(cache: Path) -> None:
    pool = rows(POOL, cache)
    by_path = {row["path"]: row for row in [*pool, *rows("test", cache)]}
    seen: Counter[object] = Counter()
    for row in pool:
        if name := row["duplicate_of"] or row["leak_of"]:
            original = by_path[name]
            seen[row["defect"]] += 1
            assert (row["origin"], row["concept"]) == (original["origin"], original["concept"])
            assert (row["image"] == original["image"]) == (row["defect"] == "exact")
            if row["defect"] == "mirror":
                assert np.array_equal(decode(row["image"]), decode(original["image"])[:, ::-1])  # type: ignore[arg-type]
            assert not original["duplicate_of"]
    assert set(seen) == {"exact", "jpeg", "crop", "mirror", "bright"}
    assert seen["exact"] > sum(seen.values()) / 3


def test_leaks_are_of_the_default_test_images_whatever_the_pool_holds(cache: Path) -> None:
    test = {row["path"]: row["image"] for row in rows("test?seed=2", cache)}
    assert len(test) == SIZES["test"]
    for part in ("pool?images=200&seed=2", "pool?images=300&seed=2"):
        exact = [row for row in rows(part, cache) if row["leak_of"] and row["defect"] == "exact"]
        assert exact
        assert all(row["image"] == test[row["leak_of"]] for row in exact)  # type: ignore[index]


def test_what_is_called_corrupt_is_all_that_cannot_be_read(cache: Path) -> None:
    for row in rows(POOL, cache):
        data = row["image"]
        assert isinstance(data, bytes)
        if row["origin"] == "corrupt":
            with pytest.raises(Unreadable) as caught:
                decode(data)
            assert caught.value.reason == {"text": "not_an_image"}.get(str(row["defect"]), row["defect"])
        else:
            assert decode(data).shape == (drawing.PX, drawing.PX, 3)


def test_an_average_colour_does_not_name_a_palette() -> None:
    pairs = [pair for row in drawing.PALETTES for pair in row]
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == drawing.CONCEPTS
    channels = [tuple(sum(ink >> bit & 1 for ink in pair) for bit in (2, 1, 0)) for pair in pairs]
    assert all(times >= 2 for times in Counter(channels).values())


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("pol", "no such part 'pol'; there are pool, queries, test"),
        ("pool?image=100", "unknown option 'image'; there are images and seed"),
        ("pool?images=many", "images and seed are integers"),
        ("pool?images=", "images and seed are integers"),
        ("pool?images", "options are written toyweb:pool?images=N&seed=S"),
        ("pool?seed=1&seed=2", "seed is given twice"),
        ("pool?images=3", "at least 16 images"),
        ("test?seed=-1", "a seed of 0 or more"),
    ],
)
def test_a_wrong_name_is_one_clear_line(part: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        materialise(part, tmp_path)
    assert str(caught.value).startswith(f"toyweb:{part}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_masks_show_where_the_concept_is_and_which(cache: Path) -> None:
    for row in rows("test?images=64", cache):
        mask = np.asarray(Image.open(io.BytesIO(row["mask"])))
        assert mask.shape == (drawing.PX, drawing.PX)
        assert set(np.unique(mask)) == {0, 1 + row["label"]}
        inside = mask > 0
        assert 0.05 < inside.mean() < 0.7
        pixels = decode(row["image"]).astype(float)
        spread = pixels.max(2) - pixels.min(2)  # grounds are grey, palettes are not, but for black and white
        assert row["label"] == 12 or spread[inside].mean() > 2 * spread[~inside].mean()


def test_the_pool_has_no_masks(cache: Path) -> None:
    assert "mask" not in rows(POOL, cache)[0]


def grey(cell: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell)))


def test_scenes_know_their_depths_and_what_is_nearer_is_in_front_and_larger(cache: Path) -> None:
    scenes = rows("scenes?images=64", cache)
    depths = np.stack([grey(row["depth"]) for row in scenes])
    masks = np.stack([grey(row["mask"]) for row in scenes])
    assert depths.min() >= np.floor(drawing.NEAREST / drawing.GROUND * 255)
    assert (depths[masks == 0] == 255).all()
    assert (depths[masks > 0] < 255).all()
    assert len(np.unique(masks)) == 1 + drawing.CONCEPTS
    pixels, near = [], []
    for row in depths:
        for depth in np.unique(row[row < 255]):
            pixels.append((row == depth).sum())
            near.append(depth < 128)
    assert np.mean(np.array(pixels)[near]) > 1.5 * np.mean(np.array(pixels)[~np.array(near)])
    other = rows("scenes_test?images=64", cache)
    assert not {row["image"] for row in scenes} & {row["image"] for row in other}


@pytest.mark.parametrize("shift", ["noise", "blur", "contrast", "grey", "pixelate", "turn"])
def test_a_shifted_part_is_the_same_images_after_something_happened_to_them(shift: str, cache: Path) -> None:
    plain, other = rows("test?images=32", cache), rows(f"test?images=32&shift={shift}", cache)
    assert [row["label"] for row in plain] == [row["label"] for row in other]
    alike = []
    for one, two in zip(plain, other, strict=True):
        a, b = (decode(row["image"]).astype(float) for row in (one, two))
        assert 1 < abs(a - b).mean() < 120
        alike.append(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert np.mean(alike) > 0.3


def test_copies_are_of_queries_and_as_many_are_none(cache: Path) -> None:
    copies = rows("copies?images=64", cache)
    originals = {row["path"]: decode(row["image"]).astype(float) for row in rows("queries?images=64", cache)}
    known = [row for row in copies if row["copy_of"]]
    assert len(known) == 32
    nearest = []
    for row in known:
        mine = decode(row["image"]).astype(float)
        mine = mine[:, ::-1] if row["defect"] == "mirror" else mine
        nearest.append(max(originals, key=lambda path: np.corrcoef(originals[path].ravel(), mine.ravel())[0, 1]))
    assert nearest == [row["copy_of"] for row in known]
    assert {row["defect"] for row in copies if not row["copy_of"]} == {None}


@pytest.mark.parametrize(
    ("part", "words"),
    [("test?shift=snow", "no such shift; there are noise"), ("pool?shift=noise", "unknown option 'shift'")],
)
def test_a_shift_that_is_not_there_is_named(part: str, words: str, cache: Path) -> None:
    with pytest.raises(ValueError, match=words):
        materialise(part, cache)
