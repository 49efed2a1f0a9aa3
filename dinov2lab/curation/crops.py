"""Who might be a copy of whom: small pictures of whole images, looked for among pictures of crops of all images.

    W whole images, N images, C crops of each, D numbers that describe a crop, k candidates; P pairs

A copy shows all of its original or a part of it, and a bordered copy shows its original in a part of itself: of a copy
and its original, one is about a crop of the other. A crop is described by the low frequencies of its luminance (a cosine
transform without its constant term, so that brightness does not count), those of odd horizontal frequency apart: they
change their sign in the mirror image, and the better of both readings costs one addition. Descriptions are whole numbers,
small enough for float32 to add up products of them exactly: scores are the same on any device and in any order.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dinov2lab.curation.cores import on_all_cores
from dinov2lab.curation.vectors import Floats, Ints

FREQUENCIES = 6  # in each direction
EMPHASIS = 0.75  # power of the frequency by which the steep fall of pictures' spectra is made up for
FLAT = 2.0  # grey levels of contrast below which a description fades out: what is blank is like nothing
LENGTH = 2000  # of a description; its square is below 2**24
LUMINANCE = np.array([0.299, 0.587, 0.114])
# Side of the crops in x and y, and how many of them in x and y. Neighbours differ by about a tenth of the image, which low
# frequencies hardly notice; what is less than half a side would need many more.
LATTICE = (
    *((1.0, 1.0, 1, 1), (0.85, 0.85, 2, 2), (0.85, 0.85, 1, 1), (0.7, 0.7, 4, 4), (0.55, 0.55, 6, 6)),
    *((0.75, 1.0, 3, 1), (1.0, 0.75, 1, 3), (0.6, 1.0, 3, 1), (1.0, 0.6, 1, 3)),
)
WHOLES, IMAGES = 256, 512  # of a block of scores
PAIRS = 1024
BATCH = 64  # images whose crops' scores fit into a core's cache

Pictures = NDArray[np.uint8]  # (N, P, P, 3)


class Candidates(NamedTuple):
    whole: Ints  # (P,)
    image: Ints  # (P,)
    box: Floats  # (P, 4) the crop of `image`: left, top, right, bottom as shares of its sides
    flipped: NDArray[np.bool_]  # (P,) whether it is the mirror image of the crop that is alike


def boxes() -> Floats:
    """(C, 4) left, top, right, bottom; the whole image comes first."""
    found = []
    for width, height, across, down in LATTICE:
        for top in np.linspace(0, 1 - height, down) if down > 1 else [(1 - height) / 2]:
            for left in np.linspace(0, 1 - width, across) if across > 1 else [(1 - width) / 2]:
                found.append((left, top, left + width, top + height))
    return np.array(found, np.float32)


def described(pictures: Pictures, crops: Floats) -> tuple[Floats, Floats]:
    """(N, C, D) descriptions of each picture's `crops`: of even and of odd horizontal frequencies."""
    light = pictures @ LUMINANCE
    number = np.arange(FREQUENCIES)
    weight = np.hypot(number[:, None], number[None]) ** EMPHASIS  # nothing for the constant term
    weight *= np.sqrt(np.where(number == 0, 1, 2))[:, None] * np.sqrt(np.where(number == 0, 1, 2))[None]
    left, top, right, bottom = crops.T.astype(np.float64)
    across, down = (_transforms(start, stop, light.shape[1]) for start, stop in ((left, right), (top, bottom)))
    even, odd = (
        np.empty((len(pictures), len(crops), FREQUENCIES * FREQUENCIES // 2), np.float32) for _ in range(2)
    )  # (N, C, D)
    for crop in range(len(crops)):
        waves = weight * np.matmul(np.matmul(down[crop], light), across[crop].T)  # (N, y, x)
        length = np.sqrt(np.einsum("nyx,nyx->n", waves, waves) + FLAT**2)
        whole = np.rint(LENGTH * waves / length[:, None, None])
        even[:, crop], odd[:, crop] = (whole[:, :, part::2].reshape(len(whole), -1) for part in (0, 1))
    return even, odd


def _transforms(start: NDArray[np.float64], stop: NDArray[np.float64], px: int) -> NDArray[np.float64]:
    """(C, FREQUENCIES, P): cosines over each interval, averaged over each pixel's share of it."""
    edges = np.arange(px + 1) / px
    inside = np.clip((edges - start[:, None]) / (stop - start)[:, None], 0, 1)[:, None]  # (C, 1, P + 1)
    number = np.arange(FREQUENCIES)[None, :, None]
    angles = np.pi * number
    integral = np.where(number == 0, inside, np.sin(angles * inside) / np.where(number == 0, 1, angles))
    return np.diff(integral, axis=2)


def candidates(wholes: Pictures, pictures: Pictures, most: int, floor: float, mirrored: bool = True) -> Candidates:
    """For each of `wholes`, the `most` images one of whose crops is most like it above `floor`, mirrored or not.

    An image that is also among `wholes` is its own best candidate.
    """
    crops = boxes()
    asked = _whole(wholes)
    best = torch.full((len(wholes), min(most, len(pictures))), -1)  # score and image in one number: no ties
    for start, even, odd in _blocks(pictures, crops):

        def ask(rows: torch.Tensor, start: int = start, even: torch.Tensor = even, odd: torch.Tensor = odd) -> None:
            score = _alike(asked[0][rows], asked[1][rows], even, odd, mirrored).long()
            key = (score << 32) + (2**32 - 1 - start - torch.arange(score.shape[1]))
            best[rows] = torch.cat([best[rows], key], dim=1).topk(best.shape[1], dim=1).values

        on_all_cores(ask, torch.arange(len(wholes)).split(WHOLES))
    keys = best.numpy()
    rows, places = np.nonzero(keys >> 32 >= int(floor * LENGTH**2))
    image = 2**32 - 1 - (keys[rows, places] & (2**32 - 1))
    return located(wholes, pictures, rows, image, mirrored)[0]


def _whole(pictures: Pictures) -> list[torch.Tensor]:
    """2 x (W, D) even and odd."""
    parts = (described(pictures[start : start + IMAGES], boxes()[:1]) for start in range(0, len(pictures), IMAGES))
    return [torch.from_numpy(np.concatenate(part)[:, 0]) for part in zip(*parts, strict=True)]


def _alike(
    whole_even: torch.Tensor, whole_odd: torch.Tensor, even: torch.Tensor, odd: torch.Tensor, mirrored: bool
) -> torch.Tensor:
    """(W, N) the score of each image's best crop; `even` and `odd` are (N, C, D)."""
    score = torch.empty(len(whole_even), len(even))
    for images in torch.arange(len(even)).split(BATCH):
        e, o = even[images[0] : images[-1] + 1], odd[images[0] : images[-1] + 1]
        turned = whole_odd @ o.flatten(0, 1).T
        both = (whole_even @ e.flatten(0, 1).T).add_(turned.abs_() if mirrored else turned)
        score[:, images[0] : images[-1] + 1] = both.view(len(both), -1, even.shape[1]).amax(2)
    return score


def _blocks(pictures: Pictures, crops: Floats) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    for start in range(0, len(pictures), IMAGES):
        even, odd = described(pictures[start : start + IMAGES], crops)
        yield start, torch.from_numpy(even), torch.from_numpy(odd)


def located(
    wholes: Pictures, pictures: Pictures, rows: Ints, image: Ints, mirrored: bool = True
) -> tuple[Candidates, Ints]:
    """Which crop of each pair's image is most like the whole, in an order that is given too: that of the images."""
    crops, asked = boxes(), _whole(wholes)
    order = np.lexsort((rows, image))
    rows, image = rows[order], image[order]
    crop, flipped = np.empty(len(rows), np.int64), np.empty(len(rows), bool)
    for start, even, odd in _blocks(pictures, crops):
        first, last = np.searchsorted(image, (start, start + len(even)))
        for pair in range(first, last, PAIRS):
            part = slice(pair, min(pair + PAIRS, last))
            which = torch.from_numpy(image[part] - start)
            e = torch.einsum("pd,pcd->pc", asked[0][rows[part]], even[which])
            o = torch.einsum("pd,pcd->pc", asked[1][rows[part]], odd[which])
            crop[part] = (e + (o.abs() if mirrored else o)).argmax(1).numpy()
            flipped[part] = np.take_along_axis(o.numpy(), crop[part, None], 1)[:, 0] < 0
    return Candidates(rows, image, crops[crop], flipped & mirrored), order
