"""Multi-crop views and block masks (dinov2, data/augmentations.py and masking.py).

Each crop is cut from the decoded image and resized in one go; the photometric changes then act on whole batches of floats
in [0, 1]. Every draw is keyed by (seed, replicate, position of the sample), see draws.py.

    B images   V crops of each   P pixels of a crop's side   N patches of a global crop
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinov2lab.draws import Key, uniforms
from dinov2lab.spec.run import ColourJitter, Masks, ViewsSpec

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)  # of ImageNet
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)

# What `blur` means: probabilities for the first global, the second global and the local crops.
BLUR = {"reference": (0.0, 0.9, 0.5), "intended": (1.0, 0.1, 0.5), "off": (0.0, 0.0, 0.0)}


def normalise(images: Tensor) -> Tensor:
    return (images - MEAN.to(images)) / STD.to(images)


def views(
    pictures: Sequence[Image.Image], positions: NDArray[np.int64], key: Key, spec: ViewsSpec
) -> tuple[Tensor, ...]:
    """Global crops (2 B, 3, P, P) and, where there are any, local crops (V B, 3, P, P): normalised, view by view."""
    first, second, local = BLUR[spec.blur]
    size = len(pictures)
    groups = [_crops(pictures, positions, key, spec.global_px, spec.global_scale, ["global/0", "global/1"], spec.flip)]
    blur = [np.repeat([first, second], size)]
    solarise = [np.repeat([0.0, spec.solarise], size)]
    names = [["global/0", "global/1"]]
    if spec.local_crops:
        names.append([f"local/{v}" for v in range(spec.local_crops)])
        groups.append(_crops(pictures, positions, key, spec.local_px, spec.local_scale, names[1], spec.flip))
        blur.append(np.full(size * spec.local_crops, local))
        solarise.append(np.zeros(size * spec.local_crops))
    return tuple(
        normalise(_photometric(group, _draws(key, names[g], positions, "colour", 14), spec, blur[g], solarise[g]))
        for g, group in enumerate(groups)
    )


def _draws(key: Key, names: Sequence[str], positions: NDArray[np.int64], what: str, count: int) -> NDArray[np.float64]:
    """(V B, count) uniforms, view by view."""
    return np.concatenate([uniforms(key, f"view/{name}/{what}", positions, count) for name in names])


def _crops(
    pictures: Sequence[Image.Image],
    positions: NDArray[np.int64],
    key: Key,
    px: int,
    scale: tuple[float, float],
    names: Sequence[str],
    flip: float,
) -> Tensor:
    """(V B, 3, px, px) floats in [0, 1]: random resized crops, bicubic, mirrored at rate `flip`."""
    sizes = np.array([picture.size for picture in pictures] * len(names), dtype=np.float64)
    draws = _draws(key, names, positions, "crop", 2 * _TRIES + 3)
    boxes = crop_boxes(sizes, scale, draws)
    out = np.empty((len(boxes), px, px, 3), dtype=np.uint8)
    for row, (left, top, width, height) in enumerate(boxes.tolist()):
        picture = pictures[row % len(pictures)]
        box = (left, top, left + width, top + height)
        out[row] = np.asarray(picture.resize((px, px), Image.Resampling.BICUBIC, box=box))
    mirrored = draws[:, -1] < flip
    out[mirrored] = out[mirrored, :, ::-1]
    # Channel by channel in memory, as the photometric changes go through them.
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous().float().div_(255)


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


def _photometric(
    images: Tensor,
    draws: NDArray[np.float64],
    spec: ViewsSpec,
    blur: NDArray[np.float64],
    solarise: NDArray[np.float64],
) -> Tensor:
    """Colour jitter, grey, blur, solarise, each on the rows that drew it. `draws`: (rows, 14) uniforms."""
    images = jitter(images, draws[:, :9], spec.jitter)
    grey = _rows(draws[:, 9] < spec.grey)
    images[grey] = _luma(images[grey]).expand(-1, 3, -1, -1)
    blurred = _rows(draws[:, 10] < blur)
    low, high = spec.blur_sigma
    images[blurred] = gaussian_blur(
        images[blurred], torch.from_numpy(low + (high - low) * draws[blurred.numpy(), 11]).float()
    )
    solarised = _rows(draws[:, 12] < solarise)
    picked = images[solarised]
    images[solarised] = torch.where(picked >= 128 / 255, 1 - picked, picked)
    return images


def _rows(chosen: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen))


def jitter(images: Tensor, draws: NDArray[np.float64], spec: ColourJitter) -> Tensor:
    """Brightness, contrast, saturation and hue in an order that each row draws, as torchvision's ColorJitter.

    `draws`: (rows, 9) uniforms: whether, four factors, four keys whose ranking is the order.
    """
    strengths = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    operations = (_brightness, _contrast, _saturation, _hue)
    applied = draws[:, 0] < spec.probability
    order = np.argsort(draws[:, 5:9], axis=1)
    for turn in range(4):
        for which, (operation, strength) in enumerate(zip(operations, strengths, strict=True)):
            rows = _rows(applied & (order[:, turn] == which))
            if strength and len(rows):
                low, high = (-strength, strength) if operation is _hue else (max(0.0, 1 - strength), 1 + strength)
                factor = torch.from_numpy(low + (high - low) * draws[rows.numpy(), 1 + which]).float().view(-1, 1, 1, 1)
                images[rows] = operation(images[rows], factor)
    return images


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luma(images).mean((2, 3), keepdim=True), images, factor).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luma(images), images, factor).clamp_(0, 1)


def _luma(images: Tensor) -> Tensor:
    """(rows, 1, P, P) grey by ITU-R 601, as Pillow and torchvision."""
    red, green, blue = images.unbind(1)
    return (0.299 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def _hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` of a full circle; saturation and value stay (HSV, as torchvision)."""
    value, chroma, hue = _value_chroma_hue(images)
    turned = hue + factor[:, 0] * 6
    turned -= 6 * torch.floor(turned / 6)
    # The closed form of HSV to RGB: how much of the chroma each channel has, hue in sixths.
    shares = (turned - 3).abs_() - 1, 2 - (turned - 2).abs_(), 2 - (turned - 4).abs_()
    return torch.stack([torch.addcmul(value - chroma, chroma, share.clamp_(0, 1)) for share in shares], 1)


def _value_chroma_hue(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """HSV's value, chroma (value x saturation) and hue in sixths of a circle, -1 to 5; each (rows, P, P)."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = chroma.clamp_min(1e-12)
    # Blends by 0 or 1 stand for branches: those, different from pixel to pixel, are what a processor is slow at.
    hue = torch.lerp((red - green) / safe + 4, (blue - red) / safe + 2, (value == green).float())
    return value, chroma, hue.lerp_((green - blue) / safe, (value == red).float())


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Each image blurred with its own sigma (pixels), kernel of 9, reflected at the border; as products with matrices."""
    px = images.shape[-1]
    offsets = torch.arange(-4, 5)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)  # (rows, 9)
    targets = (torch.arange(px)[:, None] + offsets).abs()
    targets = torch.where(targets >= px, 2 * (px - 1) - targets, targets).clamp_min_(0)  # (px, 9) reflected
    matrix = torch.zeros(len(images), px, px)
    matrix.scatter_add_(2, targets.expand(len(images), -1, -1), kernel[:, None].expand(-1, px, -1))
    return matrix[:, None] @ images @ matrix[:, None].transpose(2, 3)


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
