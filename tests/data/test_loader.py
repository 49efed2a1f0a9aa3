"""Batches by position, and pictures that are decoded once."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov2lab.data.loader import Order, Pictures, as_tensor, centred, evaluation_batches
from dinov2lab.data.source import Unreadable
from dinov2lab.data.views import MEAN, STD
from dinov2lab.draws import Key


class Flat:
    """Pictures of one colour, the row's number; counts its reads."""

    uri, labels, classes = "memory:flat", None, ()
    paths = tuple(f"{row}" for row in range(10))

    def __init__(self) -> None:
        self.reads: list[int] = []

    def read(self, index: int) -> bytes:
        self.reads.append(index)
        file = io.BytesIO()
        Image.new("RGB", (8, 6), (index, index, index)).save(file, "PNG")
        return file.getvalue()

    def fingerprint(self) -> str:
        return ""


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 4), st.integers(0, 99))
def test_each_pass_is_a_permutation(size, number, seed):
    order = Order(size, Key(seed))
    assert sorted(order(np.arange(number * size, (number + 1) * size)).tolist()) == list(range(size))


@settings(deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(0, 200), max_size=40))
def test_a_position_has_its_image_however_positions_are_cut(size, positions):
    whole = Order(size, Key(0))(np.arange(201))
    order = Order(size, Key(0))
    assert order(np.array(positions, np.int64)).tolist() == whole[positions].tolist()
    assert [int(order(np.array([position]))[0]) for position in positions] == whole[positions].tolist()


def test_passes_replicates_and_seeds_are_shuffled_differently():
    passes = Order(50, Key(0))(np.arange(150)).reshape(3, 50)
    others = [Order(50, key)(np.arange(50)) for key in (Key(1), Key(0, 1))]
    assert len({tuple(order) for order in (*passes.tolist(), *map(np.ndarray.tolist, others))}) == 5


def test_pictures_are_decoded_once_within_the_budget_and_each_time_beyond_it():
    source = Flat()
    pictures = Pictures(source, [7, 2, 5], budget=2 * 8 * 6 * 3)
    for _ in range(2):
        assert [pictures[row].getpixel((0, 0))[0] for row in range(3)] == [7, 2, 5]
    assert source.reads == [7, 2, 5, 5]
    assert len(pictures) == 3


@pytest.mark.parametrize(
    ("size", "left", "top"), [((40, 20), 10, 0), ((20, 40), 0, 10), ((20, 20), 0, 0), ((41, 20), 10.5, 0)]
)
def test_evaluation_sees_the_central_square(size, left, top):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    box = (left, top, left + 20, top + 20)
    expected = Image.fromarray(pixels).resize((10, 10), Image.Resampling.BICUBIC, box=box)
    assert np.array_equal(np.asarray(centred(Image.fromarray(pixels), 10)), np.asarray(expected))


def test_evaluation_batches_are_normalised_and_in_order():
    batches = list(evaluation_batches(Pictures(Flat(), range(10)), 4, batch=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    shown = (torch.cat(batches) * STD + MEAN) * 255
    torch.testing.assert_close(shown, torch.arange(10.0).view(-1, 1, 1, 1).expand(10, 3, 4, 4), rtol=0, atol=1e-3)


def test_pictures_become_floats_between_0_and_1():
    tensor = as_tensor([Image.new("RGB", (3, 2), (255, 0, 51))])
    assert tensor.shape == (1, 3, 2, 3)
    torch.testing.assert_close(tensor[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_an_image_that_vanishes_after_curation_is_named():
    class Gone(Flat):
        def read(self, index: int) -> bytes:
            raise Unreadable("vanished")

    with pytest.raises(ValueError, match="memory:flat: 3 could be read before and is vanished now"):
        Pictures(Gone(), [3])[0]
