"""Linear segmentation against naive code: shares of patches, intersection over union, and what a probe can learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.evaluation.segmentation import IGNORED, mean_iou, patch_shares, segmentation_mious

OPTIONS = {"epochs": 30, "batch": 64}


def drawn(images: int, seed: int, classes: int = 3, side: int = 4, patch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, masks): each patch of one class, which its token tells among noise."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randint(classes, (images, side, side), generator=generator)
    tokens = torch.nn.functional.one_hot(grid.flatten(1), classes).float()
    tokens = torch.cat([tokens, torch.zeros(images, side**2, 2)], 2)
    tokens += 0.1 * torch.randn(tokens.shape, generator=generator)
    return tokens, grid.repeat_interleave(patch, 1).repeat_interleave(patch, 2).to(torch.uint8)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_shares_are_those_counted_pixel_by_pixel(images, side, patch, seed):
    rng = np.random.default_rng(seed)
    masks = rng.choice([0, 1, 2, IGNORED], (images, side * patch, side * patch)).astype(np.uint8)
    found = patch_shares(torch.from_numpy(masks), side, 3)
    for image in range(images):
        for row in range(side):
            for column in range(side):
                block = masks[image, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                known = block[block != IGNORED]
                expected = [(known == each).sum() / max(1, len(known)) for each in range(3)]
                assert found[image, row * side + column].tolist() == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3))
def test_the_mean_is_over_the_classes_that_are_there(table):
    confusion = torch.tensor([table])
    truth, predicted = np.array(table).sum(1), np.array(table).sum(0)
    ious = [table[c][c] / (truth[c] + predicted[c] - table[c][c]) for c in range(3) if truth[c]]
    if ious:
        assert mean_iou(confusion).item() == pytest.approx(np.mean(ious))


def test_a_probe_finds_what_the_tokens_tell():
    (memory, memory_masks), (queries, masks) = drawn(40, 0), drawn(20, 1)
    found = segmentation_mious(memory, memory_masks, queries, masks, lrs=(0.1, 1.0), **OPTIONS)
    assert list(found) == [0.1, 1.0]
    assert min(found.values()) > 0.9
    noise = torch.randn(queries.shape, generator=torch.Generator().manual_seed(2))
    assert segmentation_mious(memory, memory_masks, noise, masks, lrs=(1.0,), **OPTIONS)[1.0] < 0.35


def test_pixels_without_a_class_count_for_nothing():
    (memory, memory_masks), (queries, masks) = drawn(40, 0), drawn(20, 1)
    before = segmentation_mious(memory, memory_masks, queries, masks, lrs=(1.0,), **OPTIONS)
    blind, wrong = masks.clone(), masks.clone()
    blind[:, :, 4:] = IGNORED
    half = segmentation_mious(memory, memory_masks, queries, blind, lrs=(1.0,), **OPTIONS)[1.0]
    wrong[:, :, 4:] = (wrong[:, :, 4:] + 1) % 3
    assert segmentation_mious(memory, memory_masks, queries, wrong, lrs=(1.0,), **OPTIONS)[1.0] < half
    assert half == pytest.approx(before[1.0], abs=0.15)
    unknown = memory_masks.clone()
    unknown[:10] = IGNORED
    fewer = segmentation_mious(memory[10:], memory_masks[10:], queries, masks, lrs=(1.0,), epochs=30, batch=1000)
    ignored = segmentation_mious(memory, unknown, queries, masks, lrs=(1.0,), epochs=30, batch=1000)
    assert ignored[1.0] == pytest.approx(fewer[1.0], abs=0.02)


def test_the_result_does_not_depend_on_how_many_images_are_segmented_at_once(monkeypatch):
    (memory, memory_masks), (queries, masks) = drawn(30, 0), drawn(20, 1)
    whole = segmentation_mious(memory, memory_masks, queries, masks, lrs=(1.0,), **OPTIONS)
    monkeypatch.setattr("dinov2lab.evaluation.segmentation._IMAGES", 3)
    assert segmentation_mious(memory, memory_masks, queries, masks, lrs=(1.0,), **OPTIONS) == whole
