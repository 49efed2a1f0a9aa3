"""Each bound drops what it is for, by a reason of its own, and nothing else."""

import numpy as np
import pytest
from memory import encoded, flat, picture
from PIL import Image

from dinov2lab.curation.quality import MEASURES, failings, jpeg_quality, measured
from dinov2lab.spec.curation import Quality

GOOD = picture(1, (120, 100))
BOUNDS = Quality(
    stage="quality",
    min_px=32,
    max_aspect=3.0,
    min_contrast=4.0,
    min_luminance=20.0,
    min_sharpness=0.05,
    min_jpeg_quality=30,
)


def sharp(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def measures(*images: tuple[Image.Image, bytes]) -> np.ndarray:
    return np.stack([measured(data, np.asarray(image)) for image, data in images])


def reason(image: Image.Image, bounds: Quality = BOUNDS, kind: str = "PNG", **options: object) -> str | None:
    return failings(measures((image, encoded(image, kind, **options))), bounds)[0][0]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (sharp(0), None),
        (sharp(0).resize((40, 30)), "small"),
        (sharp(0).resize((400, 40)), "elongated"),
        (flat((90, 90, 90), (64, 64)), "blank"),
        (sharp(0).point(lambda value: value // 8), "dark"),
        (picture(1, (480, 400)), "blurred"),
    ],
)
def test_reasons(image, expected):
    assert reason(image) == expected
    assert reason(image, Quality(stage="quality")) is None


def test_over_compression_is_read_off_the_tables_of_a_jpeg():
    assert reason(sharp(0), kind="JPEG", quality=10) == "over_compressed"
    assert reason(sharp(0), kind="JPEG", quality=60) is None
    for quality in (5, 20, 50, 75, 95):
        assert abs(jpeg_quality(encoded(GOOD, "JPEG", quality=quality)) - quality) <= 2
    assert jpeg_quality(encoded(GOOD)) == 100


def test_a_jpeg_that_says_nothing_of_its_quality_passes():
    assert jpeg_quality(b"\xff\xd8 and no more") == 100


def test_measures_against_naive_ones():
    image = sharp(3)
    row = dict(zip(MEASURES, measures((image, encoded(image)))[0], strict=True))
    grey = np.asarray(image, float) @ [0.299, 0.587, 0.114]
    edges = [
        abs(grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x])
        for y in range(1, 99)
        for x in range(1, 119)
    ]
    expected = {
        "px": 100,
        "aspect": 1.2,
        "contrast": grey.std(),
        "luminance": grey.mean(),
        "sharpness": np.mean(edges) / grey.std(),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4)


def test_the_first_bound_that_is_failed_counts_and_its_value_is_told():
    row = measures((flat((5, 5, 5), (8, 60)), b""))
    why, value = failings(row, BOUNDS)
    assert (why[0], value[0]) == ("small", 8)
    assert failings(row, BOUNDS.model_copy(update={"min_px": None}))[0][0] == "elongated"
