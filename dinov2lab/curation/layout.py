"""An embedding that needs no weights: where in an image which colours and which edges lie. For likeness, not for copies.

N images, P pixels a side, D dimensions
"""

import numpy as np
from numpy.typing import NDArray

COLOURS = 8  # cells a side, the mean colour of each
CELLS, ANGLES = 4, 6  # cells a side, in each how much edge of each direction; among photographs it varies as colours do
BLOCK = 4096


def layout_features(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, P, P, 3) -> (N, D) vectors of unit length; P is a multiple of COLOURS and of CELLS."""
    size = len(thumbnails)
    features = np.empty((size, 3 * COLOURS**2 + ANGLES * CELLS**2), np.float32)
    for start in range(0, size, BLOCK):
        pictures = thumbnails[start : start + BLOCK].astype(np.float64) / 255
        colours = _cells(pictures, COLOURS) / (pictures.shape[1] // COLOURS) ** 2 - 0.5
        both = np.concatenate([part.reshape(len(pictures), -1) for part in (colours, _edges(pictures))], axis=1)
        features[start : start + BLOCK] = both / np.maximum(np.sqrt(np.einsum("nd,nd->n", both, both)), 1e-9)[:, None]
    return features


def _cells(values: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """(N, P, P, C) -> (N, cells, cells, C), sums."""
    count, px, _, channels = values.shape
    sums: NDArray[np.float64] = values.reshape(count, cells, px // cells, cells, px // cells, channels).sum((2, 4))
    return sums


def _edges(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, CELLS, CELLS, ANGLES) roots of the summed gradients of the luminance, by the direction of the edge, 0 to pi."""
    grey = pictures.mean(3)
    across = np.diff(grey, axis=2, append=grey[:, :, -1:])
    down = np.diff(grey, axis=1, append=grey[:, -1:])
    angle = np.floor(np.arctan2(down, across) % np.pi / np.pi * ANGLES).astype(np.int64) % ANGLES
    each = np.hypot(across, down)[..., None] * (angle[..., None] == np.arange(ANGLES))
    edges: NDArray[np.float64] = np.sqrt(_cells(each, CELLS))
    return edges
