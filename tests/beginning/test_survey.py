"""What a first look at images finds, on a sample where there are many."""

from pathlib import Path

import numpy as np
import pytest
from looked import labelled, looked
from PIL import Image

from dinov2lab.beginning import survey as surveys
from dinov2lab.beginning.layout import layout_of
from dinov2lab.beginning.survey import Survey, poisson_upper, survey


def write(file: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """A smooth picture of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file)


def silent(doing: str, done: int, of: int) -> None:
    pass


def seen(folder: Path) -> Survey:
    return survey(folder, layout_of(folder, folder.parent / "lab"), silent)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "LEAST", 10)


@pytest.mark.usefixtures("small")
def test_copies_and_what_cannot_be_read_are_counted(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / f"{number}.png", number, (48, 40 if number < 15 else 60))
    write(tmp_path / "same.png", 3)
    with Image.open(tmp_path / "4.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("RGB").save(tmp_path / "mirrored.jpg", quality=80)
    (tmp_path / "cut.png").write_bytes((tmp_path / "5.png").read_bytes()[:200])
    (tmp_path / "empty.jpg").touch()
    found = seen(tmp_path)
    assert found.whole
    assert found.unreadable == {"truncated": 1, "empty": 1}
    assert (found.images, len(found.rows)) == (22, 22)
    assert (found.exact, found.copied, found.pairs) == (1, 4, 2)
    assert found.copied_share == found.hidden_share == 4 / 22
    assert (found.sizes.middle, found.sizes.high, found.sizes.aspect) == (40, 48, 1.2)


@pytest.mark.usefixtures("small")
def test_of_many_files_a_sample_is_looked_at_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "SAMPLE", 12)
    for number in range(40):
        write(tmp_path / f"{number}.png", number)
    first, second = seen(tmp_path), seen(tmp_path)
    assert first._replace(seconds=0.0) == second._replace(seconds=0.0)
    assert first.seconds > 0
    assert (first.sampled, first.whole, first.images) == (12, False, 40)
    assert set(first.rows) != set(range(12))


@pytest.mark.usefixtures("small")
def test_a_sample_that_takes_long_ends_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "SECONDS", 0.0)
    for number in range(40):
        write(tmp_path / f"{number}.png", number)
    assert seen(tmp_path).sampled == 10


def test_of_a_large_picture_some_pixels_show_what_all_do() -> None:
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((2700, 2100), Image.Resampling.BICUBIC), np.float64)
    pixels = np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    whole = Image.fromarray(pixels).resize((surveys.copies.PX, surveys.copies.PX), Image.Resampling.BILINEAR)
    assert np.abs(surveys._picture(pixels).astype(int) - np.asarray(whole)).max() <= 4


@pytest.mark.usefixtures("small")
def test_processor_time_ends_a_sample_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(surveys.time, "process_time", lambda: next(clock))
    for number in range(40):
        write(tmp_path / f"{number}.png", number)
    assert seen(tmp_path).sampled == 10


def test_too_few_images_are_one_line_that_says_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "one.png", 0)
    (tmp_path / "photos.zip").touch()
    told = r"folder:images: 1 images .* at least 128 are wanted \(of 2 files: 1 empty\); 1 archives .* unpack them"
    with pytest.raises(ValueError, match=told):
        seen(tmp_path)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_the_share_of_copies_is_found_again_from_samples(share: float) -> None:
    """Images of which some are there twice, sampled often: the mean of the estimates is the share, and their bound holds."""
    count, size, generator = 5000, 500, np.random.default_rng(0)
    original = np.arange(count)
    copies = int(share * count / 2)
    original[copies : 2 * copies] = original[:copies]
    shares, bounds = [], []
    for _ in range(400):
        drawn = original[generator.choice(count, size, replace=False)]
        pairs = size - len(np.unique(drawn))
        found = looked(labelled(images=count), sampled=size, pairs=pairs, copied=2 * pairs)
        shares.append(found.copied_share)
        bounds.append(found.hidden_share)
    assert np.mean(shares) == pytest.approx(share, abs=0.03)
    assert np.mean(np.array(bounds) >= share) >= 0.93


def test_of_no_pair_three_may_be_hidden() -> None:
    assert poisson_upper(0) == pytest.approx(3.0, abs=0.01)
    assert looked().hidden_share == pytest.approx(2 * 3 * 49_999 / (2000 * 1999), rel=0.01)
