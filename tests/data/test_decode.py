"""Any bytes become (H, W, 3) uint8 by the stated rule, or Unreadable with a reason that is true."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov2lab.data.decode import MAX_PIXELS, STRIP, Unreadable, decode

REASONS = {"empty", "not_an_image", "truncated", "corrupt", "too_large"}
PICTURE = np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8)  # (H, W, 3)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


FILES = {
    "jpeg": encoded(Image.fromarray(PICTURE), "JPEG"),
    "progressive": encoded(Image.fromarray(PICTURE), "JPEG", progressive=True),
    "png": encoded(Image.fromarray(PICTURE), "PNG"),
    "gif": encoded(Image.fromarray(PICTURE), "GIF"),
    "webp": encoded(Image.fromarray(PICTURE), "WEBP", lossless=True),
    "bmp": encoded(Image.fromarray(PICTURE), "BMP"),
    "tiff": encoded(Image.fromarray(PICTURE), "TIFF", compression="tiff_lzw"),
    "ppm": encoded(Image.fromarray(PICTURE), "PPM"),
    "jp2": encoded(Image.fromarray(PICTURE), "JPEG2000"),
    "avif": encoded(Image.fromarray(PICTURE), "AVIF"),
    "ico": encoded(Image.fromarray(PICTURE), "ICO", sizes=[(16, 16)]),
}
LOSSLESS = {"png", "webp", "bmp", "tiff", "ppm", "jp2"}


def reason(data: bytes) -> str | None:
    """None for a picture; whatever else decode raises fails the test."""
    try:
        pixels = decode(data)
    except Unreadable as error:
        return error.reason if error.reason in REASONS else pytest.fail(f"unknown reason {error.reason}")
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert min(pixels.shape) > 0
    return None


@pytest.mark.parametrize("name", FILES)
def test_every_format_opens(name: str) -> None:
    pixels = decode(FILES[name])
    assert pixels.flags.writeable
    if name in LOSSLESS:
        assert np.array_equal(pixels, PICTURE)
    elif name != "ico":
        assert pixels.shape == PICTURE.shape
        assert np.abs(pixels.astype(int) - PICTURE).mean() < 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    upright = {  # by the EXIF table: where the first row and the first column of the file belong
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: PICTURE[::-1].transpose(1, 0, 2),
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: PICTURE[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(decode(encoded(Image.fromarray(PICTURE), form, exif=exif, **options)), upright)


def test_a_picture_of_many_rows_is_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2 * STRIP + 3, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), "PNG")), pixels)


def test_broken_exif_leaves_the_picture() -> None:
    data = encoded(Image.fromarray(PICTURE), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert np.array_equal(decode(data), decode(FILES["jpeg"]))


def test_grey_and_bilevel() -> None:
    grey = PICTURE[:, :, 0]
    assert np.array_equal(decode(encoded(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=2))
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1"
    assert np.array_equal(decode(encoded(bits, "PNG"))[:, :, 1], np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_is_divided_by_257(form: str) -> None:
    values = np.arange(0, 65536, 5, dtype=np.uint16).reshape(4, -1)  # 65535 is one of them
    pixels = decode(encoded(Image.fromarray(values), form))
    assert np.array_equal(pixels[:, :, 2], np.rint(values / 257))
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.2, 1]]), [0, 51, 255]),  # 0 to 1 is black to white
        (np.float32([[-3, 0, 3]]), [0, 128, 255]),  # no white is known: the picture's own range
        (np.float32([[7, 7, 7]]), [0, 0, 0]),
        (np.float32([[np.nan, np.inf, 1]]), [0, 0, 255]),
        (np.float32([[-3e38, 0, 3e38]]), [0, 128, 255]),
        (np.int32([[0, 25700, 65535]]), [0, 100, 255]),
        (np.int32([[0, 100_000, 1_000_000]]), [0, 26, 255]),  # 25.5 is rounded to even
    ],
)
def test_32_bit_grey(values: np.ndarray, expected: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])  # Pillow writes JPEG's CMYK inverted, with Adobe's marker
def test_cmyk(form: str) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(red, form)
    assert form == "TIFF" or b"Adobe" in data
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() <= 2


def test_transparency_is_laid_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = [0, 51, 255]  # black: absent, one fifth, whole
    image = Image.fromarray(pixels)
    assert decode(encoded(image, "PNG"))[0, :, 0].tolist() == [255, 204, 0]
    assert decode(encoded(image.convert("LA"), "PNG"))[0, :, 0].tolist() == [255, 204, 0]
    palette = Image.fromarray(np.uint8([[0, 1]]), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert decode(encoded(palette, "PNG", transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    assert decode(encoded(palette, "GIF", transparency=0))[0].tolist() == [[255, 255, 255], [40, 50, 60]]
    colour_key = Image.fromarray(np.uint8([[[1, 2, 3], [4, 5, 6]]]))
    assert decode(encoded(colour_key, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("data", [b"<html><body>404</body></html>", b"\0" * 900, b"%PDF-1.7\n", b"\xff" * 3000, b"x"])
def test_what_is_no_image(data: bytes) -> None:
    assert reason(data) == "not_an_image"


def test_no_bytes_are_empty() -> None:
    assert reason(b"") == "empty"


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_truncated(name: str) -> None:
    """But for a cut inside the signature, where nothing says what it was, and one behind the last pixel's data."""
    data = FILES[name]
    reasons = [reason(data[:cut]) for cut in range(1, len(data))]
    assert set(reasons[:12]) <= {"not_an_image", "truncated"}
    behind = len(reasons) - next((i for i, found in enumerate(reasons) if found is None), len(reasons))
    assert behind <= {"png": 21, "ico": 21, "gif": 2, "bmp": 3}.get(name, 0)
    inside = reasons[12 : len(reasons) - behind]
    allowed = len(inside) // 20 if name == "avif" else 0  # its decoder is opaque where a cut falls between two boxes
    assert sum(found != "truncated" for found in inside) <= allowed


def test_a_jpeg_whose_tail_is_zeros_is_truncated() -> None:
    data = FILES["jpeg"]
    for kept in (0.7, 0.9):
        cut = data[: int(len(data) * kept)]
        assert reason(cut + bytes(len(data) - len(cut))) == "truncated"
    assert np.array_equal(
        decode(data + bytes(100)), decode(data)
    )  # padding behind a whole picture is none of our business
    assert np.array_equal(decode(data + b"\xff\xda more"), decode(data))


def test_a_damaged_file_is_corrupt() -> None:
    data = bytearray(FILES["png"])
    data[70] ^= 0xFF
    assert reason(bytes(data)) == "corrupt"


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(MAX_PIXELS + 1, 1), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_too_large(size: tuple[int, int], recwarn: pytest.WarningsRecorder) -> None:
    assert reason(png_header(*size)) == "too_large"
    assert not recwarn.list


def test_the_limit_does_not_depend_on_pillows(recwarn: pytest.WarningsRecorder) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # as many a script does
    try:
        assert reason(png_header(100_000, 100_000)) == "too_large"
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    assert reason(png_header(10_000, 10_000)) != "too_large"  # where Pillow warns
    assert not recwarn.list


def test_warnings_do_not_leak_and_other_filters_stay(recwarn: pytest.WarningsRecorder) -> None:
    for cut in range(8, len(FILES["tiff"]), 7):  # Pillow warns of nearly each
        reason(FILES["tiff"][:cut])
    assert not recwarn.list
    warnings.warn("heard", UserWarning, stacklevel=1)
    assert len(recwarn.list) == 1


@given(st.binary(max_size=400))
@example(b"\xff\xd8\xff\xda\0")
@example(b"RIFF\0\0\0\0WEBP")
@example(b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\0")
def test_arbitrary_bytes(data: bytes) -> None:
    reason(data)


@settings(max_examples=300)
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_mutated_files(data: st.DataObject, name: str) -> None:
    damaged = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(damaged)))
    del damaged[start : start + data.draw(st.integers(0, 30))]
    reason(bytes(damaged))
