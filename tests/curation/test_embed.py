"""Thumbnails: what makes two pictures alike, and blank ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory import MemorySource, encoded, flat, picture

from dinov2lab.curation.embed import Mirrored, mirrored, thumbnail, thumbnail_features
from dinov2lab.data.source import decode

levels = st.integers(0, 255)


def features(*images) -> np.ndarray:
    return thumbnail_features(np.stack([thumbnail(np.asarray(image), 16) for image in images])).astype(np.float64)


def cosine(one, other) -> float:
    a, b = features(one, other)
    return float(a @ b)


def test_size_and_brightness_do_not_count():
    image = picture(1, (48, 48))
    assert cosine(image, image.resize((96, 96))) > 0.99
    assert cosine(image, image.point(lambda value: value * 0.8)) > 0.99
    assert cosine(image, picture(2, (48, 48))) < 0.6


def test_vectors_have_unit_length_even_of_blank_images():
    vectors = features(picture(1), flat((0, 0, 0)), flat((255, 255, 255)), flat((9, 200, 31)))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@given(st.tuples(levels, levels, levels), st.tuples(levels, levels, levels))
def test_blank_images_are_alike_where_their_colours_are(one, other):
    distance = np.linalg.norm(np.subtract(one, other))
    score = cosine(flat(one), flat(other))
    if distance <= 2:
        assert score > 0.97
    if distance >= 20:
        assert score < 0.9


def test_grey_levels_are_told_apart():
    greys = features(*(flat((level, level, level)) for level in range(0, 256, 15)))
    scores = greys @ greys.T
    assert scores[~np.eye(len(greys), dtype=bool)].max() < 0.9


def test_hues_are_told_apart():
    steps = range(0, 256, 50)
    colours = features(*(flat((red, green, blue)) for red in steps for green in steps for blue in steps))
    scores = colours @ colours.T
    assert scores[~np.eye(len(colours), dtype=bool)].max() < 0.9


def test_the_noise_of_a_blank_image_is_no_picture():
    rng = np.random.default_rng(0)
    noisy = [np.clip(np.full((64, 64, 3), level) + rng.normal(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8)
             for level in (100, 100, 180)]  # fmt: skip
    assert cosine(noisy[0], noisy[1]) > 0.9
    assert cosine(noisy[0], noisy[2]) < 0.5


@pytest.mark.parametrize("size", [(32, 32), (48, 33)])
def test_mirrored_thumbnails_are_those_of_the_mirrored_image(size):
    pixels = np.asarray(picture(5, size))
    direct = thumbnail(np.ascontiguousarray(pixels[:, ::-1]), 16).astype(int)
    assert np.abs(direct - mirrored(thumbnail(pixels, 16)[None])[0]).max() <= 1


def test_a_mirrored_source_reads_mirrored_images():
    source = MemorySource("memory:x", {"a": encoded(picture(1))})
    np.testing.assert_array_equal(decode(Mirrored(source).read(0)), np.asarray(picture(1))[:, ::-1])
    assert Mirrored(source).fingerprint() != source.fingerprint()
