"""Embeddings that need no weights, and mirror images.

    N images, P pixels a side, D dimensions

A thumbnail's vector is its picture with its mean colour removed, so that neither brightness nor tint counts, and a
faint code of that colour. Where there is a picture the code is negligible; where there is none (a blank image, or one
with nothing but the noise of its compression) the code is all there is: blank images of one colour are copies, of
different colours are not, and the cosine is never that of a zero vector.
"""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import ndtri

from dinov2lab import draws
from dinov2lab.data.source import Source, decode

NOISE = 2.0  # contrast, in grey levels of 255, at which the picture and the code of its colour weigh the same
COLOUR = 16.0  # grey levels: the width of the Gaussian kernel that compares two mean colours
FREQUENCIES = 32  # random Fourier features of that kernel (Rahimi and Recht 2007)
BLOCK = 4096
QUALITY = 85  # of a JPEG that is drawn anew


def thumbnail(pixels: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """(H, W, 3) -> (px, px, 3): every image at one size, whatever its own, by averaging over areas."""
    return np.asarray(Image.fromarray(pixels).resize((px, px), Image.Resampling.BOX))


def mirrored(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, P, P, 3), left and right exchanged."""
    return thumbnails[:, :, ::-1]


def thumbnail_features(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, P, P, 3) -> (N, D) vectors of unit length."""
    size = int(np.prod(thumbnails.shape[1:]))
    features = np.empty((len(thumbnails), size + 2 * FREQUENCIES), np.float32)
    for start in range(0, len(thumbnails), BLOCK):
        block = thumbnails[start : start + BLOCK].astype(np.float64)
        colour = block.mean(axis=(1, 2))  # (N, 3)
        picture = (block - colour[:, None, None]).reshape(len(block), size) / np.sqrt(size)
        both = np.concatenate([picture, NOISE * _colour_code(colour)], axis=1)
        features[start : start + BLOCK] = both / np.sqrt(np.einsum("nd,nd->n", both, both))[:, None]
    return features


def _colour_code(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) -> (N, 2 * FREQUENCIES) unit vectors whose cosine falls with the distance of two colours."""
    uniform = draws.uniforms(draws.Key(0), "colour code", np.arange(3), FREQUENCIES)
    angles = np.einsum("nc,cf->nf", colours / COLOUR, ndtri(uniform + 2.0**-54))
    code: NDArray[np.float64] = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(FREQUENCIES)
    return code


class Mirrored:
    """A source whose images are the mirror images of another's, for embedders that read sources."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.uri = f"mirrored {source.uri}"
        self.paths = source.paths
        self.labels = source.labels
        self.classes = source.classes

    def read(self, index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(decode(self._source.read(index))[:, ::-1])).save(
            file, "PNG", compress_level=1
        )
        return file.getvalue()

    def fingerprint(self) -> str:
        return f"mirrored {self._source.fingerprint()}"


class Redrawn:
    """A source whose images are another's at sizes drawn from `sides`, by their paths, and encoded anew.

    Fine patterns tell an image that was resized and saved again from one that was not, whatever it shows.
    """

    def __init__(self, source: Source, sides: NDArray[np.integer]) -> None:
        self._source, self._sides = source, np.sort(sides)  # (S,) pixels of the shorter side, in any order
        self.uri = source.uri
        self.paths = source.paths
        self.labels = source.labels
        self.classes = source.classes

    def read(self, index: int) -> bytes:
        pixels = decode(self._source.read(index))
        drawn = int.from_bytes(hashlib.sha256(self.paths[index].encode()).digest()[:8], "little")
        scale = int(self._sides[drawn % len(self._sides)]) / min(pixels.shape[:2])
        size = [max(1, round(scale * length)) for length in (pixels.shape[1], pixels.shape[0])]
        file = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

    def fingerprint(self) -> str:
        sides = hashlib.sha256(self._sides.astype(np.int64).tobytes()).hexdigest()
        return f"redrawn {sides} {self._source.fingerprint()}"


def read_thumbnails(source: Source, rows: Sequence[int], px: int) -> NDArray[np.uint8]:
    """(N, px, px, 3) of the named rows. Raises Unreadable."""
    pictures = np.empty((len(rows), px, px, 3), np.uint8)
    for place, row in enumerate(rows):
        pictures[place] = thumbnail(decode(source.read(row)), px)
    return pictures


def read_pictures(source: Source, rows: Sequence[int], px: int) -> NDArray[np.uint8]:
    """(N, px, px, 3) of the named rows, smoother than thumbnails, for what is compared by alignment. Raises Unreadable."""
    pictures = np.empty((len(rows), px, px, 3), np.uint8)
    for place, row in enumerate(rows):
        image = Image.fromarray(decode(source.read(row)))
        pictures[place] = np.asarray(image.resize((px, px), Image.Resampling.BILINEAR))
    return pictures
