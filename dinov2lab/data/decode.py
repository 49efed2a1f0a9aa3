"""Bytes to pixels by one stated rule, and a counted reason where that cannot be.

    orientation    as EXIF asks for
    transparency   laid on white: most pictures with alpha were drawn for a page, and dark lines vanish on black
    animation      the first frame
    16-bit grey    divided by 257, so that 65535 becomes 255; 16-bit colour keeps its high byte
    32-bit grey    0 to 65535 as above, floats 0 to 1 as black to white; where a value lies outside, no white is known,
                   and the picture's own range is stretched; what is not finite counts as 0
    all else       grey, palette, bilevel, CMYK (JPEG's as Adobe inverts it): Pillow's conversion; no colour profiles

H, W: height and width in pixels.
"""

import warnings
from contextlib import suppress
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
MAX_PIXELS = 2**31 // 12  # 512 MiB as RGB; the camera with the most pixels stays below, a decompression bomb does not
STRIP = 256  # rows


class Unreadable(ValueError):
    """Bytes that are no image. `reason` is one of a few words that are counted.

    Of `decode`: empty, not_an_image (in none of FORMATS), truncated (ends too early), corrupt (its decoder refuses it),
    too_large. Of a source also: vanished (gone or not to be opened), outside (a link that leaves the folder).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Bytes(BytesIO):
    """Notes when a part of a known length was not all there: what a file that was cut short lacks."""

    ran_out = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        # Decoders ask for blocks of MAXBLOCK whatever is left: those say nothing.
        self.ran_out |= size is not None and len(data) < size < ImageFile.MAXBLOCK
        return data


def decode(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) RGB pixels, H and W at least 1. Raises Unreadable, and nothing else, whatever the bytes are."""
    if not data:
        raise Unreadable("empty")
    if _cut_short(data):
        raise Unreadable("truncated")
    file = _Bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Unreadable("too_large")
                return _rgb(image)
    except Unreadable:
        raise
    except Exception as error:  # decoders of hostile bytes raise nearly anything
        raise Unreadable(_reason(error, data, file.ran_out)) from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    with suppress(Exception):  # broken EXIF data do not make a picture unreadable
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        return _eight_bit(np.asarray(image), 65535)
    if image.mode == "F":
        return _eight_bit(np.asarray(image), 1)
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) of an RGB picture, strip by strip: Pillow's own way to an array holds a large one three times over."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _eight_bit(grey: NDArray[np.generic], white: int) -> NDArray[np.uint8]:
    """(H, W) values of any range -> (H, W, 3)."""
    values = grey.astype(np.float64)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    if low >= 0 and high <= white:
        low, high = 0, white
    values -= low
    values *= 255 / (high - low) if high > low else 0  # one value everywhere, and no white: black
    return np.repeat(np.rint(values, out=values).astype(np.uint8)[:, :, None], 3, axis=2)


def _cut_short(data: bytes) -> bool:
    """Whether a file says that it is longer than it is, where its decoder does not tell or paints the rest grey."""
    if data.startswith(b"\xff\xd8"):  # a JPEG whose tail is zeros: its scan never ends
        scan = data.find(b"\xff\xda")
        return scan >= 0 and data.endswith(b"\0") and data.find(b"\xff\xd9", scan) < 0
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[4:12] == b"ftypavif" or data[4:8] == b"jP  ":  # a chain of boxes, the last of which may have no stated size
        start = 0
        while len(data) - start >= 8 and (size := int.from_bytes(data[start : start + 4])) >= 8:
            start += size
        return start > len(data)
    return False


def _reason(error: Exception, data: bytes, ran_out: bool) -> str:
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too_large"
    if isinstance(error, UnidentifiedImageError) and not _signed(data):
        return "not_an_image"
    return "truncated" if ran_out or "truncated" in str(error).lower() else "corrupt"


def _signed(data: bytes) -> bool:
    """Whether the first bytes are the signature of one of FORMATS."""
    return any(accept is not None and accept(data[:16]) for _, accept in (Image.OPEN[name] for name in FORMATS))
