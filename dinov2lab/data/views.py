"""Multi-crop views and block masks (dinov2, data/augmentations.py and masking.py).

Each crop is cut from the decoded image, resized in one go and changed in bytes, while it is in a processor's cache; blocks of
crops are then normalised. Every draw is keyed by (seed, replicate, position of the sample), see draws.py.

    B images   V crops of each   P pixels of a crop's side   N patches of a global crop
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov2lab.data import photometric
from dinov2lab.data.photometric import Crop
from dinov2lab.draws import Key, uniforms
from dinov2lab.spec.run import ColourJitter, Masks, ViewsSpec

Pixels = NDArray[np.uint8]  # (H, W, 3) of one image

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)  # of ImageNet
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_SCALE, _SHIFT = 1 / (STD * 255), MEAN / STD  # the same from bytes
_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)
BLOCK = 2**16  # pixels of crops that are normalised together

# What `blur` means: probabilities for the first global, the second global and the local crops.
BLUR = {"reference": (0.0, 0.9, 0.5), "intended": (1.0, 0.1, 0.5), "off": (0.0, 0.0, 0.0)}


def normalise(images: Tensor) -> Tensor:
    return (images - MEAN.to(images)) / STD.to(images)


class _Group(NamedTuple):
    """Crops of one size: those of all images, view by view."""

    names: tuple[str, ...]
    px: int
    scale: tuple[float, float]
    blur: tuple[float, ...]  # probabilities, for each view
    solarise: tuple[float, ...]


def views(pictures: Sequence[Pixels], positions: NDArray[np.int64], key: Key, spec: ViewsSpec) -> tuple[Tensor, ...]:
    """Global crops (2 B, 3, P, P) and, where there are any, local crops (V B, 3, P, P): normalised, view by view."""
    first, second, local = BLUR[spec.blur]
    two, many = ("global/0", "global/1"), tuple(f"local/{v}" for v in range(spec.local_crops))
    groups = [_Group(two, spec.global_px, spec.global_scale, (first, second), (0.0, spec.solarise))]
    if many:
        none = (0.0,) * len(many)
        groups.append(_Group(many, spec.local_px, spec.local_scale, (local,) * len(many), none))
    return tuple(_crops(pictures, positions, key, group, spec) for group in groups)


def _draws(key: Key, names: Sequence[str], positions: NDArray[np.int64], what: str, count: int) -> NDArray[np.float64]:
    """(V B, count) uniforms, view by view."""
    return np.concatenate([uniforms(key, f"view/{name}/{what}", positions, count) for name in names])


def _crops(images: Sequence[Pixels], positions: NDArray[np.int64], key: Key, group: _Group, spec: ViewsSpec) -> Tensor:
    """(V B, 3, P, P): random resized crops, mirrored, changed and normalised."""
    px = group.px
    where = _draws(key, group.names, positions, "crop", 2 * _TRIES + 3)
    sizes = np.array([image.shape[1::-1] for image in images] * len(group.names), dtype=np.float64)
    boxes, mirrored = crop_boxes(sizes, group.scale, where).tolist(), (where[:, -1] < spec.flip).tolist()
    changes = _Changes.drawn(_draws(key, group.names, positions, "colour", 14), group, len(images), spec)
    cut = np.empty((len(boxes), px, px, 3), dtype=np.uint8)
    for image, pixels in enumerate(images):  # all of one image while it is in the cache
        for row in range(image, len(boxes), len(images)):
            crop = _resized(pixels, boxes[row], px)
            cut[row] = changes.apply(cv2.flip(crop, 1) if mirrored[row] else crop, row)
    # numpy asks for huge pages: 4 times faster
    out, planes = torch.from_numpy(np.empty((len(boxes), 3, px, px), dtype=np.float32)), _planes(cut)
    most = max(BLOCK // px**2, 1)
    for start in range(0, len(out), most):
        rows = slice(start, start + most)
        out[rows].copy_(planes[rows]).mul_(_SCALE).sub_(_SHIFT)
    return out


def _resized(image: Pixels, box: tuple[int, int, int, int], px: int) -> Crop:
    """(px, px, 3) of one box: bicubic with antialiasing, as Pillow's but for its last bit."""
    left, top, width, height = box
    lines = image.reshape(len(image), -1)[
        top : top + height, 3 * left : 3 * (left + width)
    ]  # whole lines are copied fast
    planes = _planes(lines.copy().reshape(1, height, width, 3))
    crop: Crop = F.interpolate(planes, (px, px), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    return crop


def _planes(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) as (B, 3, H, W), where it lies."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def crop_boxes(sizes: NDArray[np.float64], scale: tuple[float, float], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """(rows, 4) left, top, width, height by torchvision's RandomResizedCrop rule.

    `sizes`: (rows, 2) width, height of the images. `draws`: (rows, 2 * tries + 3) uniforms: areas, aspects, left, top, flip.
    """
    width, height = sizes[:, :1], sizes[:, 1:]
    area = width * height * (scale[0] + (scale[1] - scale[0]) * draws[:, :_TRIES])
    low, high = math.log(_ASPECT[0]), math.log(_ASPECT[1])
    aspect = np.exp(low + (high - low) * draws[:, _TRIES : 2 * _TRIES])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    rows = np.arange(len(sizes))
    first = fits.argmax(1)
    w, h = w[rows, first], h[rows, first]
    left = np.floor(draws[:, 2 * _TRIES] * (width[:, 0] - w + 1))
    top = np.floor(draws[:, 2 * _TRIES + 1] * (height[:, 0] - h + 1))
    # No try fits: the largest central crop whose aspect is allowed.
    none = ~fits.any(1)
    central_w = np.minimum(width[:, 0], np.rint(height[:, 0] * _ASPECT[1]))
    central_h = np.minimum(height[:, 0], np.rint(width[:, 0] / _ASPECT[0]))
    w, h = np.where(none, central_w, w), np.where(none, central_h, h)
    left = np.where(none, (width[:, 0] - w) // 2, left)
    top = np.where(none, (height[:, 0] - h) // 2, top)
    return np.stack([left, top, w, h], 1).astype(np.int64)


class _Changes(NamedTuple):
    """What each of a number of crops has drawn."""

    jitter: list[list[tuple[int, float]]]  # see `jitter_draws`
    grey: list[bool]
    blur: list[float]  # sigma, or 0 where there is none
    solarise: list[bool]

    @classmethod
    def drawn(cls, draws: NDArray[np.float64], group: _Group, size: int, spec: ViewsSpec) -> "_Changes":
        """`draws`: (rows, 13) uniforms; `size`: images."""
        low, high = spec.blur_sigma
        blurred = draws[:, 10] < np.repeat(group.blur, size)
        return cls(
            jitter_draws(draws[:, :9], spec.jitter),
            (draws[:, 9] < spec.grey).tolist(),
            np.where(blurred, low + (high - low) * draws[:, 11], 0).tolist(),
            (draws[:, 12] < np.repeat(group.solarise, size)).tolist(),
        )

    def apply(self, crop: Crop, row: int) -> Crop:
        crop = jitter(crop, self.jitter[row])
        if self.grey[row]:
            crop = photometric.grey(crop)
        if self.blur[row]:
            crop = photometric.blur(crop, self.blur[row])
        return photometric.solarise(crop) if self.solarise[row] else crop


def jitter_draws(draws: NDArray[np.float64], spec: ColourJitter) -> list[list[tuple[int, float]]]:
    """For each row what torchvision's ColorJitter does to it, in order: (which of `_OPERATIONS`, its factor).

    `draws`: (rows, 9) uniforms: whether, four factors, four keys whose ranking is the order.
    """
    strengths = np.array([spec.brightness, spec.contrast, spec.saturation, spec.hue])
    low, high = np.append(np.maximum(0, 1 - strengths[:3]), -spec.hue), np.append(1 + strengths[:3], spec.hue)
    factors = (low + (high - low) * draws[:, 1:5]).tolist()
    orders = np.argsort(draws[:, 5:9], axis=1).tolist()
    jittered = (draws[:, 0] < spec.probability).tolist()
    return [
        [(which, factor[which]) for which in order if strengths[which]] if some else []
        for some, order, factor in zip(jittered, orders, factors, strict=True)
    ]


def jitter(crop: Crop, changes: Sequence[tuple[int, float]]) -> Crop:
    for which, factor in changes:
        crop = _OPERATIONS[which](crop, factor)
    return crop


_OPERATIONS = (photometric.brightness, photometric.contrast, photometric.saturation, photometric.hue)


def block_masks(step: int, crops: int, grid: int, key: Key, spec: Masks) -> Tensor:
    """(crops, N) bool for one step's global crops: exactly int(crops x probability) are masked, at stratified ratios."""
    masked = int(crops * spec.probability)
    generator = np.random.Generator(np.random.Philox(key=int(key.stream(f"masks/{step}"))))
    edges = np.linspace(spec.ratio[0], spec.ratio[1], masked + 1)
    ratios = edges[:-1] + (edges[1:] - edges[:-1]) * generator.random(masked)
    masks = np.zeros((crops, grid, grid), dtype=bool)
    for row, ratio in zip(generator.permutation(crops)[:masked], ratios, strict=True):
        masks[row] = block_mask(grid, max(int(grid * grid * ratio), 1), generator)
    return torch.from_numpy(masks.reshape(crops, -1))


def block_mask(grid: int, target: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(grid, grid) bool, at most `target` patches in rectangles of at least 4 patches and aspect 0.3 to 1/0.3.

    Where a rectangle of 4 no longer fits into what is left, the rest stays open, as in the reference. On grids too small
    for any rectangle one patch is masked; a single patch, never: nothing would be left to see.
    """
    mask = np.zeros((grid, grid), dtype=bool)
    left = target
    while left > 0:
        for _ in range(_TRIES):
            area = generator.uniform(min(4, left), max(4, left))
            aspect = math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < h < grid and 0 < w < grid):
                continue
            top, start = generator.integers(grid - h + 1), generator.integers(grid - w + 1)
            block = mask[top : top + h, start : start + w]
            new = h * w - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                left -= new
                break
        else:
            break
    if left == target and grid > 1:
        mask.flat[generator.integers(grid * grid)] = True
    return mask
