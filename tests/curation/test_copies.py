"""The detector of copies: edits it must know, look-alikes it must not, and sums that no order or thread changes."""

import io

import numpy as np
import pytest
import torch
from memory import MemorySource, encoded, flat
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dinov2lab.curation import copies, crops
from dinov2lab.curation.dedup import Rows, find_leaks, find_pairs
from dinov2lab.curation.embed import read_pictures

THRESHOLD = 0.75
ORIGINALS = 14


def scene(seed: int) -> Image.Image:
    """A random picture with detail at several scales, less of the finer, as photographs have."""
    rng = np.random.default_rng(seed)
    sizes, weights = (3, 5, 9, 17), (0.4, 0.3, 0.2, 0.15)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).resize(
                (96, 96), Image.Resampling.BICUBIC
            ),
            float,
        )
        for size in sizes
    ]
    blend = sum(weight * layer for weight, layer in zip(weights, layers, strict=True))
    return Image.fromarray(np.clip(2 * blend - 140, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def tinted(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image) * np.array([1.15, 1.0, 0.8]), 0, 255).astype(np.uint8))


EDITS = {
    "jpeg": lambda image: jpeg(image, 30),
    "resized": lambda image: image.resize((41, 36), Image.Resampling.BILINEAR),
    "crop": lambda image: image.crop((10, 4, 86, 80)),
    "strong crop": lambda image: image.crop((30, 20, 86, 76)),
    "wide crop": lambda image: image.crop((0, 12, 96, 84)),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "mirror": ImageOps.mirror,
    "mirrored crop": lambda image: ImageOps.mirror(image.crop((4, 10, 80, 86))),
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "border": lambda image: ImageOps.expand(image, 10, "white"),
    "bars": lambda image: ImageOps.expand(image, (0, 12), "black"),
    "turn": lambda image: image.rotate(6, Image.Resampling.BICUBIC),
    "tint": tinted,
    "grey": lambda image: image.convert("L"),
}


def shown(images: list[Image.Image]) -> crops.Pictures:
    source = MemorySource("memory:x", {f"{number:03}": encoded(image) for number, image in enumerate(images)})
    return read_pictures(source, range(len(images)), copies.PX)


def rows(pictures: crops.Pictures) -> Rows:
    return Rows(pictures, pictures, np.array([f"x{number:03}" for number in range(len(pictures))]), pictures=True)


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return [scene(seed) for seed in range(ORIGINALS)]


@pytest.mark.parametrize("edit", EDITS)
def test_edited_copies_are_paired_with_their_originals_and_with_nothing_else(originals, edit):
    edited = [EDITS[edit](image) for image in originals[:5]]
    pairs = find_pairs(rows(shown([*originals, *edited])), THRESHOLD, 64)
    assert list(zip(pairs.a, pairs.b, strict=True)) == [(number, ORIGINALS + number) for number in range(5)]


def test_one_picture_in_other_colours_is_another(originals):
    heart = np.zeros((64, 64), bool)
    heart[16:48, 20:44] = True
    colours = [np.where(heart[..., None], inside, (255, 255, 255)) for inside in ((220, 40, 60), (60, 150, 220))]
    pictures = [Image.fromarray(pixels.astype(np.uint8)) for pixels in colours]
    assert not len(find_pairs(rows(shown([*originals[:4], *pictures])), THRESHOLD, 64).a)


def test_what_is_blank_is_a_copy_of_nothing(originals):
    blank = [flat((200, 200, 200)), jpeg(flat((201, 200, 199)), 50), flat((10, 10, 10))]
    assert not len(find_pairs(rows(shown([*originals[:4], *blank])), THRESHOLD, 64).a)


def test_leaks_are_found_whichever_of_the_two_shows_a_part(originals):
    pool = rows(shown([EDITS["strong crop"](originals[0]), EDITS["border"](originals[1]), *originals[8:]]))
    tests = rows(shown([*originals[:2], EDITS["crop"](originals[8])]))
    leaks = find_leaks(pool, tests, THRESHOLD)
    assert list(zip(leaks.a, leaks.b, strict=True)) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(("pool", "tests"), [(0, 1), (1, 0)])
def test_where_there_is_no_image_there_is_no_leak(originals, pool, tests):
    pictures = shown(originals[:1])
    assert not len(find_leaks(rows(pictures[:pool]), rows(pictures[:tests]), THRESHOLD).a)


def test_mirror_images_are_not_looked_for_where_that_is_switched_off(originals):
    pictures = rows(shown([*originals, ImageOps.mirror(originals[0]), EDITS["crop"](originals[1])]))
    pairs = find_pairs(pictures._replace(mirrored=None), THRESHOLD, 64)
    assert list(zip(pairs.a, pairs.b, strict=True)) == [(1, ORIGINALS + 1)]


def test_pairs_that_are_given_score_as_those_that_are_found(originals):
    pictures = shown([*originals, *[EDITS["crop"](image) for image in originals[:5]]])
    pairs = find_pairs(rows(pictures), THRESHOLD, 64)
    np.testing.assert_array_equal(copies.scores(pictures, pairs.a, pairs.b), pairs.score)


@pytest.mark.parametrize("threads", [1, 2])
def test_neither_order_nor_threads_nor_company_change_a_score(originals, threads):
    edits = list(EDITS.values())
    pictures = shown([*originals, *[edits[n % len(edits)](image) for n, image in enumerate(originals)]])
    before = find_pairs(rows(pictures), 0.3, 64)
    order = np.random.default_rng(threads).permutation(len(pictures))
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        after = find_pairs(rows(pictures[order]), 0.3, 64)
    finally:
        torch.set_num_threads(kept)
    a, b = np.sort([order[after.a], order[after.b]], axis=0)
    back = np.lexsort((b, a))
    np.testing.assert_array_equal(np.stack([a, b])[:, back], np.stack([before.a, before.b]))
    np.testing.assert_array_equal(after.score[back], before.score)


def test_a_description_is_that_of_the_crop_itself():
    picture = np.asarray(scene(3).resize((32, 32)))
    box = np.float32([[0.25, 0.5, 0.75, 1.0]])  # whole pixels: the crop is 16 x 16
    inside = crops.described(picture[None], box)
    itself = crops.described(picture[None, 16:, 8:24], np.float32([[0, 0, 1, 1]]))
    for one, other in zip(inside, itself, strict=True):
        assert np.abs(one - other).max() <= 1
    mirrored = crops.described(picture[None, :, ::-1], box)
    for one, other, sign in zip(inside, mirrored, (1, -1), strict=True):
        assert np.abs(one - sign * other).max() <= 1
