"""Colour jitter, grey, blur and solarise of one crop, in bytes, by OpenCV.

Each operation ends in rounded bytes, as those of torchvision do on Pillow's images, which the reference trains with. A crop
is changed while it lies in the processor's cache: what is given may be overwritten, what is returned counts.
"""

import cv2
import numpy as np
from cv2.typing import MatLike

Crop = MatLike  # (P, P, 3) bytes: red, green, blue
cv2.setNumThreads(0)  # its threads would not survive the fork of a loader's processes, and a crop is too small for them

RED, GREEN, BLUE = 0.299, 0.587, 0.114  # of luma, ITU-R 601, as Pillow and OpenCV have it
RADIUS = 4  # of the blur's kernel of 9
_CIRCLE = 256  # hues of OpenCV's full range
_SAME = np.eye(3)
_GREY = np.tile([RED, GREEN, BLUE], (3, 1))
_VALUES = np.arange(256, dtype=np.uint8)
_SOLARISED = np.where(_VALUES < 128, _VALUES, 255 - _VALUES)


def brightness(crop: Crop, factor: float) -> Crop:
    return cv2.convertScaleAbs(crop, dst=crop, alpha=factor)


def contrast(crop: Crop, factor: float) -> Crop:
    red, green, blue, _ = cv2.mean(crop)
    mean = RED * red + GREEN * green + BLUE * blue
    return cv2.addWeighted(crop, factor, crop, 0, (1 - factor) * mean, dst=crop)


def saturation(crop: Crop, factor: float) -> Crop:
    return cv2.transform(crop, factor * _SAME + (1 - factor) * _GREY)


def hue(crop: Crop, turn: float) -> Crop:
    """The hue is turned by so much of the circle; saturation and value stay."""
    hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * _CIRCLE) % _CIRCLE)  # beyond the last hue comes the first
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=crop)


def grey(crop: Crop) -> Crop:
    return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=crop)


def blur(crop: Crop, sigma: float) -> Crop:
    """Gaussian, mirrored at the border. `sigma` in pixels."""
    kernel = cv2.getGaussianKernel(2 * RADIUS + 1, sigma)
    return cv2.sepFilter2D(crop, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def solarise(crop: Crop) -> Crop:
    """What is at least as bright as 128 is inverted."""
    return cv2.LUT(crop, _SOLARISED, dst=crop)
