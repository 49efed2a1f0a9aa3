"""Colour jitter, grey, blur and solarise of crops: rows of floats from black (0) to WHITE, each with factors of its own.

What is slow here is memory, so that everything is arithmetic in place, without masks; a caller gives no more rows at a
time than a processor's cache holds. What a row becomes does not depend on the rows beside it.

    R rows   (R, 3, P, P) red, green, blue planes of square crops   factors: (R, 1, 1, 1) each
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weight = TypeVar("Weight", np.float32, np.float64)

WHITE = 255.0
RED, GREEN, BLUE = 0.299, 0.587, 0.114  # of luma, ITU-R 601
LUMA = torch.tensor([RED, GREEN, BLUE])
RADIUS = 4  # of the blur's kernel of 9
FAINT = 2.0**-12  # weights of the blur's kernel below this change no 8-bit value: they are 0


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return images.mul_(factor).clamp_(0, WHITE)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = images.mean((2, 3)) @ LUMA.to(images)  # (R,)
    return images.mul_(factor).add_((1 - factor).mul_(mean.view_as(factor))).clamp_(0, WHITE)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    rest = luma(images).mul_(1 - factor)
    return images.mul_(factor).add_(rest).clamp_(0, WHITE)


def hue_weights(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, 3 N) what `hue` wants for turns (R,) by up to N sixths of the circle, N the same for all rows."""
    parts = []
    for _ in range(int(np.ceil(np.abs(turns).max(initial=0)))):
        turn = turns.clip(-1, 1)
        parts += [2 * np.maximum(-turn, 0) - 1, 2 * np.maximum(turn, 0) - 1, 1 - np.abs(turn)]
        turns = turns - turn
    return np.stack(parts, 1) if parts else np.zeros((len(turns), 0))


def hue(images: Tensor, *weights: Tensor) -> Tensor:
    """The hue is turned; saturation and value stay (HSV, as torchvision). `weights`: columns of `hue_weights`.

    Turned by up to a sixth of the circle, each channel is linear in all three, cut off at the largest and the smallest of
    them: on every side of the hexagon that is what HSV and back comes to, and it takes no hue, no division and no branch.
    """
    for part in range(0, len(weights), 3):
        following, preceding, both = weights[part : part + 3]
        value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)  # (R, 1, P, P)
        turned = images + (value + least).mul_(both)
        turned[:, :2].addcmul_(images[:, 1:], following)
        turned[:, 2:].addcmul_(images[:, :1], following)
        turned[:, :1].addcmul_(images[:, 2:], preceding)
        turned[:, 1:].addcmul_(images[:, :2], preceding)
        torch.clamp(turned, least, value, out=images)
    return images


def luma(images: Tensor) -> Tensor:
    """(R, 1, P, P) grey, as Pillow and torchvision."""
    red, green, blue = images.split(1, 1)
    grey: Tensor = red * RED
    return grey.add_(green, alpha=GREEN).add_(blue, alpha=BLUE)


def grey(images: Tensor) -> Tensor:
    return images.copy_(luma(images))


def solarise(images: Tensor) -> Tensor:
    """What is at least as bright as 128 is inverted."""
    bright = (images - 128).mul_(1e30).add_(1).clamp_(0, 1)  # 1 or 0; several times faster than a mask
    return images.addcmul_(bright, WHITE - 2 * images)


def kernels(sigmas: NDArray[np.float64]) -> NDArray[np.float32]:
    """(R, RADIUS + 1) Gaussian kernels from the middle outwards; both halves sum to 1. `sigmas` in pixels."""
    weights = _of_sum_1(np.exp(-0.5 * (np.arange(RADIUS + 1) / sigmas[:, None]) ** 2))
    weights[weights < FAINT] = 0
    return _of_sum_1(weights).astype(np.float32)


def _of_sum_1(weights: NDArray[Weight]) -> NDArray[Weight]:
    scaled: NDArray[Weight] = weights / (2 * weights.sum(1, keepdims=True) - weights[:, :1])
    return scaled


def blur(images: Tensor, kernels: NDArray[np.float32]) -> Tensor:
    """Blurred with each row's kernel, mirrored at the border; a sum of shifted images.

    A crop that is smaller than its kernel is blurred with as much of it as fits.
    """
    count, size = 3 * len(images), images.shape[-1]
    radius = min(int(kernels.any(0).sum()), size) - 1
    fitting = _of_sum_1(kernels[:, : radius + 1]).repeat(3, 0)  # (3 R, radius + 1)
    weights = torch.from_numpy(fitting).to(images.device).unsqueeze(2).unbind(1)
    padded = torch.nn.functional.pad(images.view(count, size, size), (radius,) * 4, mode="reflect")
    flat, row = padded.view(count, -1), padded.shape[-1]
    # Rows of pixels lie one behind the other, so that a shift is an offset; sums across an edge are computed and left out.
    for step in (1, row):
        flat = _summed(flat, weights, step)
    return images.copy_(flat.as_strided((count, size, size), (flat.shape[1], row, 1)).view_as(images))


def _summed(flat: Tensor, weights: Sequence[Tensor], step: int) -> Tensor:
    """(N, L) to (N, L - 2 radius step): each value with its neighbours at multiples of `step`, weighted."""
    middle = (len(weights) - 1) * step
    length = flat.shape[1] - 2 * middle
    out = flat.narrow(1, middle, length) * weights[0]
    for distance, weight in enumerate(weights[1:], 1):
        out.addcmul_(flat.narrow(1, middle - distance * step, length), weight)
        out.addcmul_(flat.narrow(1, middle + distance * step, length), weight)
    return out
