"""Whether two pictures show the same: laid over one another as well as can be, and compared where both show something.

    P pairs, G points a side of the grid on which they are compared, X points of the grid (G * G)

An overlay maps the points of one picture, -1 to 1 in x and y, to points of the other by an affine map, found by
Gauss-Newton steps on the squared difference after a gain and an offset (Lucas and Kanade 1981; Baker and Matthews 2004),
first between small blurred pictures, then between larger ones. The score is

    structure   the correlation of both pictures' luminance, each freed of its local mean and local contrast, so that
                neither light, tint, contrast nor the edge of a frame outweighs what there is to see
    x colour    the share of the overlap's variation that is left when what the two differ by in hue is taken away, less
                the further their mean hues lie apart

Every batch is padded to one size, so that how pairs fall into batches does not enter the sums.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dinov2lab.curation.cores import on_all_cores
from dinov2lab.curation.crops import LUMINANCE, Candidates, Pictures
from dinov2lab.curation.vectors import DIGITS, Ints, Scores

COARSE, FINE = 16, 32  # points a side
STEPS = {COARSE: 4, FINE: 4}
WINDOW = {COARSE: 5, FINE: 7}  # points a side of what is local
NOISE = 5.0  # grey levels: less contrast than this is noise
PROMISING = 0.5  # structure on the coarse grid that is worth a finer look
BLOCK = 1024  # pictures that are made small at a time
ZOOMED = 0.65  # side of a crop below which its image is looked at on the finer grid
LARGEST_STEP = 0.25
BATCH = {COARSE: 256, FINE: 64}  # what is computed for so many pairs fits into a core's cache
SHOWN = 0.7  # share of one of the two pictures that must lie in the overlap
SCALES = (0.4, 2.5)  # sides of the crop that the overlay may show; contrasts that light may make
TINT = 160.0  # grey levels between mean hues (red or blue less luminance) at which two pictures have nothing in common
TURN = 0.4  # tangent of the largest rotation or shear


class Stacks(NamedTuple):
    """Pictures at one size: (N, 3, G, G) luminance blurred, its derivatives in x and y; and (N, 3, G, G) as they are."""

    slopes: torch.Tensor
    plain: torch.Tensor  # luminance, red minus it, blue minus it


def stacks(pictures: Pictures, px: int) -> Stacks:
    rgb = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float()
    light = torch.einsum("nchw,c->nhw", rgb, torch.tensor(LUMINANCE, dtype=torch.float32))[:, None]
    plain = torch.cat([light, rgb[:, :1] - light, rgb[:, 2:] - light], dim=1)
    plain = F.adaptive_avg_pool2d(plain, px) if pictures.shape[1] != px else plain
    smooth, slope, one = (
        torch.tensor([0.25, 0.5, 0.25]),
        torch.tensor([-0.25, 0.0, 0.25]) * px,
        torch.tensor([0.0, 1.0, 0.0]),
    )
    blurred = _filtered(plain[:, :1], smooth, smooth)
    return Stacks(torch.cat([blurred, _filtered(blurred, slope, one), _filtered(blurred, one, slope)], dim=1), plain)


def _filtered(images: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    rows = F.conv2d(F.pad(images, (1, 1, 0, 0), mode="replicate"), across.view(1, 1, 1, 3))
    return F.conv2d(F.pad(rows, (0, 0, 1, 1), mode="replicate"), down.view(1, 1, 3, 1))


def overlays(found: Candidates) -> torch.Tensor:
    """(P, 2, 3) the affine maps from whole images into the crops that they are like."""
    left, top, right, bottom = torch.from_numpy(found.box.T.copy())
    maps = torch.zeros(len(found.whole), 2, 3)
    maps[:, 0, 0] = (right - left) * torch.from_numpy(np.where(found.flipped, -1, 1).astype(np.float32))
    maps[:, 1, 1], maps[:, 0, 2], maps[:, 1, 2] = bottom - top, left + right - 1, top + bottom - 1
    return maps


def compared(wholes: Pictures, pictures: Pictures, pairs: Candidates) -> Scores:
    """(P,) the score of each pair; 0 where a coarse look finds nothing in common."""
    maps, scores = overlays(pairs), np.zeros(len(pairs.whole))
    left = _Seen(wholes, COARSE)
    right = left if pictures is wholes else _Seen(pictures, COARSE)
    zoomed = (pairs.box[:, 2:] - pairs.box[:, :2]).min(axis=1) < ZOOMED
    for rows, other in ((np.flatnonzero(~zoomed), right), (np.flatnonzero(zoomed), _Seen(pictures, FINE))):
        maps[rows], scores[rows] = _refined(left, other, pairs, rows, maps[rows])
    rows = np.flatnonzero(scores >= PROMISING)
    scores[:] = 0
    _, scores[rows] = _refined(_Seen(wholes, FINE), _Seen(pictures, FINE), pairs, rows, maps[rows])
    return np.round(scores, DIGITS)


class _Seen:
    """Pictures as stacks: small ones are made once, larger ones whenever they are asked for."""

    def __init__(self, pictures: Pictures, px: int) -> None:
        self.px = px
        self._pictures = pictures
        self._made: Stacks | None = None
        if px == COARSE:
            parts = (stacks(pictures[start : start + BLOCK], px) for start in range(0, max(1, len(pictures)), BLOCK))
            self._made = Stacks(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def __getitem__(self, rows: Ints) -> Stacks:
        if self._made is None:
            return stacks(self._pictures[rows], self.px)
        return Stacks(*(part[torch.from_numpy(rows)] for part in self._made))


def _refined(
    wholes: _Seen, pictures: _Seen, pairs: Candidates, rows: Ints, maps: torch.Tensor
) -> tuple[torch.Tensor, Scores]:
    """Better maps of the pairs in `rows`, and their scores, on the grid of the wholes."""
    px = wholes.px
    better, scores = torch.empty_like(maps), np.empty(len(rows))

    def batch(start: int) -> None:
        part = np.arange(start, min(start + BATCH[px], len(rows)))
        padded = np.resize(part, BATCH[px])
        whole, other = wholes[pairs.whole[rows[padded]]], pictures[pairs.image[rows[padded]]]
        found = aligned(whole.slopes, other.slopes, maps[padded], STEPS[px])
        was, score = (agreement(whole.plain, other.plain, each) for each in (maps[padded], found))
        found = torch.where((score >= was)[:, None, None], found, maps[padded])  # the edge of a frame may lead astray
        better[part] = found[: len(part)]
        scores[part] = torch.maximum(score, was)[: len(part)].numpy()

    on_all_cores(batch, range(0, len(rows), BATCH[px]))
    return better, scores


def _points(px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(X,) x and y of a grid's points."""
    middle = (torch.arange(px) + 0.5) / px * 2 - 1
    return middle.repeat(px), middle.repeat_interleave(px)


def _laid(images: torch.Tensor, maps: torch.Tensor, px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, channels, X) of `images` at the mapped points, and (P, X) 1 where these lie within, else 0."""
    x, y = _points(px)
    places = maps[:, :, :1] * x + maps[:, :, 1:2] * y + maps[:, :, 2:]  # (P, 2, X)
    grid = places.transpose(1, 2).reshape(len(maps), px, px, 2)
    values = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    within = (places.abs() <= 1 - 1 / images.shape[-1]).all(dim=1).float()
    return values.flatten(2), within


def aligned(left: torch.Tensor, right: torch.Tensor, maps: torch.Tensor, steps: int) -> torch.Tensor:
    """(P, 2, 3) better `maps` by which `right` (Stacks.slopes) is laid over `left`."""
    px = left.shape[-1]
    x, y = _points(px)
    target = left[:, 0].flatten(1)
    for _ in range(steps):
        values, within = _laid(right, maps, px)
        shown, dx, dy = values.unbind(1)
        within = _trusted(target, shown, within)
        gain, root = _gain(target, shown, within)[:, None], within.sqrt()
        dx, dy = dx * (gain * root), dy * (gain * root)
        jacobian = torch.stack([dx * x, dx * y, dx, dy * x, dy * y, dy, shown * root, root], dim=1)  # (P, 8, X)
        normal = jacobian @ jacobian.transpose(1, 2)  # (P, 8, 8)
        damping = normal.diagonal(dim1=1, dim2=2) * 1e-3 + (within.sum(1, keepdim=True) + 1) * _STIFFNESS
        difference = ((target - gain * shown) * root)[..., None]
        step = torch.linalg.solve(normal + torch.diag_embed(damping), jacobian @ difference)[:, :6, 0]
        step = step * (LARGEST_STEP / step.abs().amax(1, keepdim=True).clamp_min(LARGEST_STEP))
        maps = maps + step.view(-1, 2, 3)
    return maps


_STIFFNESS = torch.tensor([0.025] * 6 + [1e-6] * 2)  # keeps blank pictures where they are


def _trusted(target: torch.Tensor, shown: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """(P, X) weights of the overlap's points: little for those that fit far worse than others, as the edge of a frame."""
    rest = _centred(target, within) - _gain(target, shown, within)[:, None] * _centred(shown, within)
    usual = (rest * rest).sum(1, keepdim=True) / within.sum(1, keepdim=True).clamp_min(1)
    return within / (1 + rest * rest / (usual + 1))


def _gain(target: torch.Tensor, shown: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    a, b = _centred(target, within), _centred(shown, within)
    gain: torch.Tensor = ((a * b).sum(1) / ((b * b).sum(1) + 1)).clamp(0.2, 5)
    return gain


def _centred(values: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """(..., X) minus their mean over the overlap, and 0 outside."""
    return (values - _mean(values, within)[..., None]) * within


def _mean(values: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    mean: torch.Tensor = (values * within).sum(-1) / within.sum(-1).clamp_min(1)
    return mean


def agreement(left: torch.Tensor, right: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """(P,) structure x colour of `right` laid over `left` (Stacks.plain); 0 for what no edit makes."""
    px = left.shape[-1]
    shown, within = _laid(right, maps, px)
    target = left.flatten(2)
    a, b = (_local(values[:, 0], within, px) for values in (target, shown))
    structure = (a * b).sum(1) / torch.sqrt((a * a).sum(1) * (b * b).sum(1) + 1e-6)
    score: torch.Tensor = structure.clamp_min(0) * _colour(target, shown, within)
    return torch.where(_plausible(maps, within, target[:, 0], shown[:, 0]), score, 0.0).double()


def _local(values: torch.Tensor, within: torch.Tensor, px: int) -> torch.Tensor:
    """(P, X) freed of local mean and local contrast, 0 outside the overlap."""
    mask = within.view(-1, 1, px, px)
    share = _around(mask).clamp_min(1e-3)
    image = values.view(-1, 1, px, px) * mask
    rest = (image - _around(image) / share) * mask
    normal = rest / torch.sqrt(_around(rest * rest) / share + NOISE**2)
    return _centred(normal.flatten(1), within)


def _around(images: torch.Tensor) -> torch.Tensor:
    """The mean over a window about each point."""
    size = WINDOW[images.shape[-1]]
    rows = F.avg_pool2d(images, (1, size), 1, (0, size // 2))
    return F.avg_pool2d(rows, (size, 1), 1, (size // 2, 0))


def _colour(target: torch.Tensor, shown: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """(P,) 1 minus the variation of hue that no change of saturation explains, as a share of all variation; less the further
    the mean hues lie apart: a tint moves them by some tens of grey levels, another ground by a hundred."""
    a, b = _centred(target, within[:, None]), _centred(shown, within[:, None])  # (P, 3, X)
    own, other, both = ((u * v).sum(-1) for u, v in ((a, a), (b, b), (a, b)))  # (P, 3)
    saturation = (both[:, 1:].sum(1) / (other[:, 1:].sum(1) + 1)).clamp(0, 2)[:, None]
    differs = own[:, 1:] - 2 * saturation * both[:, 1:] + saturation**2 * other[:, 1:]
    share: torch.Tensor = differs.sum(1) / (own.sum(1) + within.sum(1) * NOISE**2 + 1)
    apart = _mean(target[:, 1:] - shown[:, 1:], within[:, None]).abs().amax(1)
    return (1 - share).clamp_min(0) * (1 - (apart / TINT) ** 2).clamp_min(0)


def _plausible(maps: torch.Tensor, within: torch.Tensor, target: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """(P,) whether the overlay is a crop, a small turn and a change of light, and shows enough of one of the two."""
    across, down = (maps[:, :, side].abs().amax(1) for side in (0, 1))
    turn = torch.maximum(maps[:, 0, 1].abs(), maps[:, 1, 0].abs()) / torch.minimum(across, down).clamp_min(1e-3)
    area = (maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0]).abs()
    overlap = within.mean(1)
    a, b = _centred(target, within), _centred(shown, within)
    contrast = torch.sqrt(((a * a).sum(1) + 1) / ((b * b).sum(1) + 1))
    return (
        (torch.minimum(across, down) >= SCALES[0])
        & (torch.maximum(across, down) <= SCALES[1])
        & (turn <= TURN)
        & (torch.maximum(overlap, overlap * area) >= SHOWN)
        & (contrast >= SCALES[0])
        & (contrast <= SCALES[1])
    )
