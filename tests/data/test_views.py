"""Crops, photometric changes and masks against torchvision and the reference's statistics."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from dinov2lab.data import photometric
from dinov2lab.data.views import MEAN, STD, Pixels, block_mask, block_masks, crop_boxes, jitter, jitter_draws, views
from dinov2lab.draws import Key, uniforms
from dinov2lab.spec.run import ColourJitter, Masks, ViewsSpec

KEY = Key(0)
PLAIN = ViewsSpec(global_px=16, local_px=8, local_crops=2, flip=0, grey=0, solarise=0, blur="off")
PLAIN = PLAIN.model_copy(update={"jitter": ColourJitter(probability=0)})
SOME = 400  # images, of which a rate is measured
BYTE = 1 / 255
HUE = 11, 1.2  # bytes, at most and on average: hue and saturation are bytes too; the way of Pillow costs 15, 1.6


def noise(count: int, px: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, px, px, 3), dtype=np.uint8)


def pictures(count: int, size: tuple[int, int] = (24, 20)) -> list[Pixels]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(count)]


def floats(crops: NDArray[np.uint8]) -> Tensor:
    """(B, 3, P, P) in [0, 1]."""
    return torch.from_numpy(crops).permute(0, 3, 1, 2) / 255


def jittered(crops: NDArray[np.uint8], draws: NDArray[np.float64], spec: ColourJitter) -> Tensor:
    changes = jitter_draws(draws, spec)
    return floats(np.stack([jitter(crop.copy(), its) for crop, its in zip(crops, changes, strict=True)]))


def assert_close(found: Tensor, expected: Tensor, most: float, mean: float) -> None:
    """`most` and `mean`: what the largest and the mean difference may be, in bytes."""
    differences = (found - expected).abs() / BYTE
    assert float(differences.max()) <= most
    assert float(differences.mean()) <= mean


def seen(spec: ViewsSpec, count: int = SOME, key: Key = KEY) -> list[Tensor]:
    """Views before normalisation: (2 count, ...) and (V count, ...), values in [0, 1]."""
    return [crops * STD + MEAN for crops in views(pictures(count), np.arange(count), key, spec)]


def plain(**changes: object) -> ViewsSpec:
    return PLAIN.model_copy(update=changes)


def changed(a: Tensor, b: Tensor) -> Tensor:
    """(rows,) which rows differ beyond rounding."""
    return (a - b).abs().flatten(1).amax(1) > 1e-4


def within(share: Tensor, rate: float) -> bool:
    """Whether so many hits are what chance would give at that rate (four standard errors)."""
    return abs(float(share.float().mean()) - rate) <= 4 * math.sqrt(rate * (1 - rate) / len(share))


# Crops


@pytest.mark.parametrize("scale", [(0.32, 1.0), (0.05, 0.32)])
@pytest.mark.parametrize("size", [(96, 80), (40, 300), (300, 30), (500, 100)])
def test_boxes_follow_the_law_of_torchvision(size, scale):
    rows = 1500
    ours = crop_boxes(np.tile(np.array(size, float), (rows, 1)), scale, uniforms(KEY, "boxes", np.arange(rows), 23))
    torch.manual_seed(0)
    empty = torch.empty(3, size[1], size[0])
    drawn = [RandomResizedCrop.get_params(empty, scale=list(scale), ratio=[3 / 4, 4 / 3]) for _ in range(rows)]
    theirs = np.array([(left, top, width, height) for top, left, height, width in drawn])
    for of in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 0] + box[:, 2],
        lambda box: box[:, 1] + box[:, 3],
    ):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-4


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1.0), st.integers(0, 999))
def test_boxes_are_never_empty_and_lie_within_the_image(width, height, low, position):
    boxes = crop_boxes(np.array([[width, height]], float), (low, 1.0), uniforms(KEY, "boxes", [position], 23))
    left, top, w, h = boxes[0].tolist()
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert min(w, h) >= 1


@pytest.mark.parametrize(("size", "box"), [((300, 10), (143, 0, 13, 10)), ((10, 300), (0, 143, 10, 13))])
def test_where_no_try_fits_the_crop_is_central_as_in_torchvision(size, box):
    empty = torch.empty(3, size[1], size[0])
    top, left, height, width = RandomResizedCrop.get_params(empty, scale=[1.0, 1.0], ratio=[3 / 4, 4 / 3])
    assert box == (left, top, width, height)
    assert tuple(crop_boxes(np.array([size], float), (1.0, 1.0), uniforms(KEY, "boxes", [0], 23))[0]) == box


@pytest.mark.parametrize(("px", "size"), [(16, (64, 64)), (98, (120, 90))])
def test_crops_are_cut_and_resized_bicubically(px, size):
    """As torchvision does it to a decoded image, but for the last bit."""
    shown = pictures(4, size)
    found = views(shown, np.arange(4), KEY, plain(global_px=px, global_scale=(0.3, 0.5)))[0] * STD + MEAN
    draws = np.concatenate([uniforms(KEY, f"view/{name}/crop", np.arange(4), 23) for name in ("global/0", "global/1")])
    boxes = crop_boxes(np.tile(np.array(size, float), (8, 1)), (0.3, 0.5), draws).tolist()
    for row, (left, top, w, h) in enumerate(boxes):
        image = tv.to_image(shown[row % 4])
        expected = tv.resized_crop(image, top, left, h, w, [px, px], tv.InterpolationMode.BICUBIC, antialias=True)
        torch.testing.assert_close(found[row], expected / 255, rtol=0, atol=1.5 / 255)


def test_views_are_normalised_and_stand_view_by_view():
    white = [np.full((20, 20, 3), 255, np.uint8), np.zeros((20, 20, 3), np.uint8)]
    crops = views(white, np.arange(2), KEY, plain(solarise=0))
    assert [tuple(group.shape) for group in crops] == [(4, 3, 16, 16), (4, 3, 8, 8)]
    for group in crops:
        for row, picture in zip(group, [1.0, 0.0, 1.0, 0.0], strict=True):
            expected = (picture - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
            torch.testing.assert_close(row, expected.view(3, 1, 1).expand_as(row))


def test_without_local_crops_there_are_two_global_ones():
    assert [tuple(group.shape) for group in views(pictures(3), np.arange(3), KEY, plain(local_crops=0))] == [
        (6, 3, 16, 16)
    ]


def test_flips_mirror_half_of_the_crops():
    straight, mirrored, half = (seen(plain(flip=rate)) for rate in (0.0, 1.0, 0.5))
    for a, b, c in zip(straight, mirrored, half, strict=True):
        torch.testing.assert_close(a, b.flip(3))
        flipped = changed(a, c)
        torch.testing.assert_close(c[flipped], b[flipped])
        assert within(flipped, 0.5)


# Colours


@pytest.mark.parametrize(
    ("strength", "which", "low", "high", "reference"),
    [
        ("brightness", 0, 0.6, 1.4, tv.adjust_brightness),
        ("contrast", 1, 0.6, 1.4, tv.adjust_contrast),
        ("saturation", 2, 0.8, 1.2, tv.adjust_saturation),
        ("hue", 3, -0.1, 0.1, tv.adjust_hue),
    ],
)
def test_each_operation_of_the_jitter_is_torchvisions(strength, which, low, high, reference):
    only = ColourJitter(probability=1, **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0))
    only = only.model_copy(update={strength: (high - low) / 2})
    draws = uniforms(KEY, "jitter", np.arange(20), 9)
    crops = noise(20)
    crops[0] = 127  # no hue to turn
    crops[1], crops[2] = 0, 255
    ours, exact = jittered(crops, draws, only), floats(crops)
    most, mean = HUE if strength == "hue" else (1, 0.5)
    for row in range(20):
        assert_close(ours[row], reference(exact[row], low + (high - low) * draws[row, 1 + which]), most, mean)


def test_the_jitter_applies_its_operations_in_the_order_that_a_row_draws():
    spec = ColourJitter(probability=1)
    draws = uniforms(KEY, "jitter", np.arange(40), 9)
    ours, exact = jittered(noise(40), draws, spec), floats(noise(40))
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    ends = ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1))

    def by_torchvision(row: int, order: list[int]) -> Tensor:
        crop = exact[row]
        for which in order:
            low, high = ends[which]
            crop = operations[which](crop, low + (high - low) * draws[row, 1 + which])
        return crop

    orders = [np.argsort(draws[row, 5:9]).tolist() for row in range(40)]
    for row, order in enumerate(orders):
        assert_close(ours[row], by_torchvision(row, order), 20, 1.5)
    backwards = [by_torchvision(row, order[::-1]) for row, order in enumerate(orders)]
    assert float((ours - torch.stack(backwards)).abs().mean()) > 2 * BYTE
    assert len({tuple(order) for order in orders}) > 12


def test_the_jitter_leaves_rows_alone_at_its_rate():
    plain_views, jittered = seen(PLAIN), seen(plain(jitter=ColourJitter()))
    for a, b in zip(plain_views, jittered, strict=True):
        assert within(changed(a, b), 0.8)


def test_grey_is_luma_at_its_rate():
    coloured, greyed = seen(PLAIN), seen(plain(grey=0.2))
    for a, b in zip(coloured, greyed, strict=True):
        grey = changed(a, b)
        assert within(grey, 0.2)
        assert_close(b[grey], tv.rgb_to_grayscale(a[grey], 3), 1, 0.5)


def test_solarise_inverts_bright_pixels_of_second_global_crops_alone():
    straight, solarised = seen(PLAIN), seen(plain(solarise=0.2))
    torch.testing.assert_close(straight[1], solarised[1])
    touched = changed(straight[0], solarised[0])
    assert not touched[:SOME].any()
    assert within(touched[SOME:], 0.2)
    expected = tv.solarize(straight[0][touched].mul(255).round().to(torch.uint8), 128) / 255
    torch.testing.assert_close(solarised[0][touched], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("px", [8, 16, 33])
def test_blur_is_torchvisions_with_a_kernel_of_9(px):
    sigmas = [0.1, 0.5, 1.0, 2.0, 0.3, 0.7]
    for crop, exact, sigma in zip(noise(6, px), floats(noise(6, px)), sigmas, strict=True):
        assert_close(
            floats(photometric.blur(crop, sigma)[None])[0], tv.gaussian_blur(exact, [9, 9], [sigma] * 2), 1, 0.5
        )


@pytest.mark.parametrize("px", [1, 2, 4])
def test_blur_keeps_grey_grey_on_crops_smaller_than_its_kernel(px):
    for sigma in (0.1, 1.0, 2.0):
        assert (photometric.blur(np.full((px, px, 3), 80, np.uint8), sigma) == 80).all()


@pytest.mark.parametrize("strength", [0.1, 0.25, 0.5])
def test_hue_turns_by_any_angle_as_torchvisions(strength):
    spec = ColourJitter(probability=1, brightness=0, contrast=0, saturation=0, hue=strength)
    draws = uniforms(KEY, "hue", np.arange(60), 9)
    draws[:2, 4] = 0.0, 1.0  # the ends
    ours, exact = jittered(noise(60), draws, spec), floats(noise(60))
    for row in range(60):
        assert_close(ours[row], tv.adjust_hue(exact[row], strength * (2 * draws[row, 4] - 1)), *HUE)


@pytest.mark.parametrize(
    ("mode", "rates"), [("reference", (0.0, 0.9, 0.5)), ("intended", (1.0, 0.1, 0.5)), ("off", (0.0, 0.0, 0.0))]
)
def test_blur_has_the_rates_of_its_mode(mode, rates):
    sharp, blurred = seen(PLAIN), seen(plain(blur=mode, blur_sigma=(1.0, 2.0)))
    touched = changed(sharp[0], blurred[0])
    for share, rate in zip((touched[:SOME], touched[SOME:], changed(sharp[1], blurred[1])), rates, strict=True):
        assert within(share, rate)


@pytest.mark.parametrize(("view", "blurred", "solarised"), [(0, 1.0, 0.0), (1, 0.1, 0.2)])
def test_thousands_of_draws_have_the_statistics_of_torchvisions_transforms(view, blurred, solarised):
    count, px = 1000, 24
    haze = np.random.default_rng(0).normal(0, 0.02, (2, count))  # rows that nothing changed are equal but for rounding
    picture = Image.fromarray(pictures(1, (6, 6))[0]).resize((px, px), Image.Resampling.BICUBIC)
    spec = ViewsSpec(global_px=px, global_scale=(1.0, 1.0), local_crops=0, blur="intended")  # the whole image
    ours = views([np.asarray(picture)] * count, np.arange(count), KEY, spec)[0].view(2, count, 3, px, px)[view]
    torch.manual_seed(0)
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(9, sigma=(0.1, 2.0))], p=blurred),
            v2.RandomSolarize(128, p=solarised),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN.flatten().tolist(), STD.flatten().tolist()),
        ]
    )
    theirs = torch.stack([transform(picture) for _ in range(count)])
    for of in (
        lambda crops: crops.mean((1, 2, 3)),
        lambda crops: crops.std((1, 2, 3)),
        lambda crops: crops[:, 0].mean((1, 2)) - crops[:, 1].mean((1, 2)),
        lambda crops: crops[:, 1].mean((1, 2)) - crops[:, 2].mean((1, 2)),
        lambda crops: crops.diff(dim=2).abs().mean((1, 2, 3)),
        lambda crops: crops.diff(dim=3).mean((1, 2, 3)),
        lambda crops: crops.amax((1, 2, 3)),
        lambda crops: crops[:, 2, 3, 5],
    ):
        assert stats.ks_2samp(of(ours).numpy() + haze[0], of(theirs).numpy() + haze[1]).pvalue > 1e-4


# Keys

FULL = ViewsSpec(global_px=16, local_px=8, local_crops=3)


def test_a_sample_has_the_same_views_whatever_else_is_in_its_batch():
    shown = pictures(6)
    together = views(shown, np.arange(10, 16), KEY, FULL)
    picked = [4, 1, 3]
    some = views([shown[row] for row in picked], 10 + np.array(picked), KEY, FULL)
    for whole, part in zip(together, some, strict=True):
        by_view = whole.view(-1, 6, *whole.shape[1:])[:, picked].flatten(0, 1)
        torch.testing.assert_close(part, by_view, rtol=0, atol=1e-6)


@pytest.mark.parametrize("other", [Key(0, 1), Key(1, 0)])
def test_another_replicate_or_seed_has_other_views(other):
    for a, b in zip(seen(FULL, 4), seen(FULL, 4, other), strict=True):
        assert changed(a, b).all()


def test_views_of_one_image_differ_and_so_do_those_of_another_position():
    crops = views(pictures(1) * 2, np.arange(2), KEY, FULL)
    for group in crops:
        for row in range(1, len(group)):
            assert changed(group[:1], group[row : row + 1]).all()


# Masks


def test_masks_have_the_statistics_of_the_reference():
    """Simulated with its rules: 29.8 % of a masked crop, and 92 % of the crops hit their number exactly."""
    crops, steps, hits, shares = 64, 20, 0, []
    for step in range(steps):
        masks = block_masks(step, crops, 16, KEY, Masks())
        masked = masks.sum(1)[masks.any(1)]
        assert len(masked) == 32, "exactly half of the crops"
        shares.append(float(masked.float().mean()) / 256)
        edges = np.floor(256 * np.linspace(0.1, 0.5, 33))
        inside = (np.sort(masked.numpy()) >= edges[:-1]) & (np.sort(masked.numpy()) <= edges[1:])
        hits += int(inside.sum())  # one ratio in each stratum
    assert np.mean(shares) == pytest.approx(0.298, abs=0.004)
    assert hits / (32 * steps) > 0.75  # the crops that miss their number also shift the order
    generator = np.random.default_rng(0)
    exact = [int(block_mask(16, target, generator).sum()) == target for target in generator.integers(26, 128, 600)]
    assert np.mean(exact) == pytest.approx(0.92, abs=0.04)


def test_first_and_second_views_are_masked_alike():
    first = sum(int(block_masks(step, 32, 8, KEY, Masks())[:16].any(1).sum()) for step in range(100))
    assert abs(first - 800) < 4 * math.sqrt(100 * 16 * 0.25)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_masks_never_exceed_their_ratio_whatever_the_grid(grid, crops, probability, ratio, step):
    masks = block_masks(step, crops, grid, KEY, Masks(probability=probability, ratio=(0.0, ratio)))
    assert masks.shape == (crops, grid * grid)
    assert int(masks.any(1).sum()) == (int(crops * probability) if grid > 1 else 0)
    assert int(masks.sum(1).max()) <= max(1, int(grid * grid * ratio))


@pytest.mark.parametrize(("grid", "share"), [(4, 0.27), (2, 0.25)])
def test_small_grids_are_masked_in_every_masked_crop(grid, share):
    masks = torch.cat([block_masks(step, 64, grid, KEY, Masks()) for step in range(20)])
    masked = masks[masks.any(1)].float().mean(1)
    assert len(masked) == 20 * 32
    assert float(masked.mean()) == pytest.approx(share, abs=0.03)
    assert float(masked.max()) <= 0.5


def test_masks_are_a_function_of_key_and_step():
    again, other = block_masks(3, 16, 8, KEY, Masks()), block_masks(4, 16, 8, KEY, Masks())
    assert torch.equal(block_masks(3, 16, 8, KEY, Masks()), again)
    assert not torch.equal(other, again)
    assert not torch.equal(block_masks(3, 16, 8, Key(0, 1), Masks()), again)
