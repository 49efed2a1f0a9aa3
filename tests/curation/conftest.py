"""A small web in memory, and images to evaluate on."""

from pathlib import Path

import pytest
from curated import Lab
from memory import MemorySource, encoded, flat, picture
from PIL import Image

from dinov2lab.data.source import Unreadable


@pytest.fixture
def pool() -> MemorySource:
    """20 pictures and what befalls images on the web."""
    images: dict[str, bytes | Unreadable] = {f"p{seed:02}": encoded(picture(seed)) for seed in range(20)}
    images |= {
        "copy/bytes": encoded(picture(3)),
        "copy/pixels": encoded(picture(3), "BMP"),
        "copy/jpeg": encoded(picture(4), "JPEG", quality=60),
        "copy/resized": encoded(picture(5).resize((64, 57))),
        "copy/mirrored": encoded(picture(6).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "blank/white": encoded(flat((255, 255, 255))),
        "blank/white_too": encoded(flat((255, 255, 255), (33, 47))),
        "blank/grey": encoded(flat((120, 120, 120))),
        "blank/red": encoded(flat((200, 30, 30))),
        "blank/dark_red": encoded(flat((100, 15, 15))),
        "leak/exact": encoded(picture(100)),
        "leak/jpeg": encoded(picture(101), "JPEG", quality=70),
        "leak/mirrored": encoded(picture(102).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "bad/empty": b"",
        "bad/text": b"<html>404</html>",
        "bad/cut": encoded(picture(7))[:300],
        "bad/gone": Unreadable("vanished"),
    }
    return MemorySource("memory:pool", images)


@pytest.fixture
def references() -> MemorySource:
    images: dict[str, bytes | Unreadable] = {f"t{seed}": encoded(picture(seed)) for seed in range(100, 110)}
    return MemorySource("memory:test", images | {"bad": b"not an image"})


@pytest.fixture
def lab(tmp_path: Path, references: MemorySource) -> Lab:
    return Lab(tmp_path, references)
