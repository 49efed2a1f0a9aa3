"""What is measured of a picture before it may teach anything, and which bound it fails first.

H, W: height and width in pixels; N images
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.spec.curation import Quality

MEASURES = ("px", "aspect", "contrast", "luminance", "sharpness", "jpeg_quality")
WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue in the luminance (Rec. 601)
LOWEST = 4  # frequencies: the others' steps end at 255, and say no more of how poor a file is
STEP = 13.25  # the mean of these in the luminance table of JPEG's annex K, which quality 50 uses as it is


def measured(data: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(6,) MEASURES of an encoded image and its (H, W, 3) pixels."""
    height, width = pixels.shape[:2]
    luminance: NDArray[np.float32] = pixels.astype(np.float32) @ WEIGHTS  # (H, W)
    contrast = float(luminance.std())
    values = (
        min(height, width),
        max(height, width) / min(height, width),
        contrast,
        luminance.mean(),
        _edges(luminance) / max(contrast, 1e-6),
        jpeg_quality(data),
    )
    return np.array(values, np.float32)


def _edges(luminance: NDArray[np.float32]) -> float:
    """The mean absolute Laplacian: by the contrast, some 0.1 for a picture out of focus and 1 for a sharp one."""
    if min(luminance.shape) < 3:
        return float("inf")  # too small to be told
    centre = luminance[1:-1, 1:-1]
    around = luminance[:-2, 1:-1] + luminance[2:, 1:-1] + luminance[1:-1, :-2] + luminance[1:-1, 2:]
    return float(np.abs(around - 4 * centre).mean())


def jpeg_quality(data: bytes) -> float:
    """1 to 100 as the Independent JPEG Group counts, from how coarse the luminance table is; 100 for what is no JPEG."""
    if not data.startswith(b"\xff\xd8"):
        return 100.0
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            coarseness = 100 * float(np.mean(image.quantization[0][:LOWEST])) / STEP  # type: ignore[attr-defined]  # of JPEG files alone
    except (OSError, KeyError):
        return 100.0  # readable after all, and of no stated quality
    return float(np.clip(5000 / coarseness if coarseness > 100 else 100 - coarseness / 2, 1, 100))


def failings(measures: NDArray[np.float32], bounds: Quality) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """(N,) the first bound that each of the (N, 6) fails, None where it passes all, and (N,) what was measured there."""
    column = dict(zip(MEASURES, measures.T.astype(np.float64), strict=True))
    asked = (
        ("small", "px", bounds.min_px, 1),
        ("elongated", "aspect", bounds.max_aspect, -1),
        ("blank", "contrast", bounds.min_contrast, 1),
        ("dark", "luminance", bounds.min_luminance, 1),
        ("blurred", "sharpness", bounds.min_sharpness, 1),
        ("over_compressed", "jpeg_quality", bounds.min_jpeg_quality, 1),
    )
    reason = np.full(len(measures), None, object)
    value = np.full(len(measures), np.nan)
    for name, measure, bound, sign in asked:
        if bound is not None:
            fails = (sign * column[measure] < sign * bound) & (reason == None)  # noqa: E711 (each element)
            reason[fails], value[fails] = name, column[measure][fails]
    return reason, value
