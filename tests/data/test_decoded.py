"""Pixels in the cache are those that were decoded, once, and only where they fit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.data.decoded import decoded
from dinov2lab.data.views import Pixels

SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40)


class Reader:
    def __init__(self, sizes: list[tuple[int, int]], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.asked: list[int] = []

    def __call__(self, index: int) -> Pixels:
        self.asked.append(index)
        return self.images[index]


@settings(deadline=None, max_examples=30)
@given(SIZES)
def test_pixels_come_back_whatever_the_sizes(tmp_path_factory, sizes):
    reader = Reader(sizes)
    found = decoded(tmp_path_factory.mktemp("cache"), "some", len(sizes), reader, 10**6)
    assert found is not None
    assert len(found) == len(sizes)
    for index, image in enumerate(reader.images):
        assert np.array_equal(found[index], image)


def test_the_same_images_are_decoded_once_and_others_apart(tmp_path: Path) -> None:
    first, again, other = Reader([(4, 5)] * 3), Reader([(4, 5)] * 3), Reader([(4, 5)] * 3, seed=1)
    decoded(tmp_path, "some", 3, first, 10**6)
    found = decoded(tmp_path, "some", 3, again, 10**6)
    assert found is not None
    assert np.array_equal(found[2], first.images[2])
    assert not again.asked
    apart = decoded(tmp_path, "others", 3, other, 10**6)
    assert apart is not None
    assert np.array_equal(apart[2], other.images[2])


@pytest.mark.parametrize("name", ["pixels.bin", "shapes.npy"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_what_a_bad_disk_has_cut_is_made_anew(tmp_path: Path, name: str, left: float) -> None:
    reader = Reader([(4, 5)] * 3)
    decoded(tmp_path, "some", 3, reader, 10**6)
    (file,) = tmp_path.glob(f"*/{name}")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * left)])
    found = decoded(tmp_path, "some", 3, reader, 10**6)
    assert found is not None
    assert np.array_equal(found[2], reader.images[2])
    assert file.read_bytes() == content


def test_what_does_not_fit_is_not_decoded_beforehand(tmp_path: Path) -> None:
    reader = Reader([(10, 10)] * 1000)
    assert decoded(tmp_path, "many", 1000, reader, 299_999) is None
    assert len(reader.asked) < 50
    assert decoded(tmp_path, "many", 1000, reader, 300_001) is not None


def test_a_kill_leaves_nothing_that_counts_and_its_rest_is_swept(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def die(index: int) -> Pixels:
        if index == 2:
            raise Killed
        return np.zeros((2, 2, 3), np.uint8)

    name = decoded(tmp_path, "some", 1, Reader([(1, 1)]), 10**6)
    assert name is not None
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    leftover = tmp_path / f".{folder.name}.x.tmp"
    folder.rename(leftover)  # as a kill would leave it
    found = decoded(tmp_path, "some", 3, Reader([(3, 3)] * 3), 10**6)
    assert found is not None
    assert len(found) == 3
    assert not leftover.exists()


def test_a_cache_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert decoded(tmp_path / "file" / "cache", "some", 1, Reader([(1, 1)]), 10**6) is None
