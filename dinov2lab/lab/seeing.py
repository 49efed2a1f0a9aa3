"""How evaluations see a network: as functions from pictures to features, kept in the cache where they are asked for again.

Features are a function of the weights, of the images, of their size in pixels and of the code that prepares and sees them.
What all of these hash to is their name in the cache, so that a second evaluation reads no image.
"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinov2lab.data.loader import Pictures, evaluation_batches
from dinov2lab.evaluation.protocol import Embedding, Eyes, pixel_patches, pixels
from dinov2lab.lab import provenance
from dinov2lab.model.features import Network, block_features, features, patch_features
from dinov2lab.spec.identity import content_id
from dinov2lab.store import atomic

BATCH = 256  # images at once: what the memory of a small device holds


class Cache(NamedTuple):
    folder: Path
    weights: str  # a digest of the network's


def eyes(backbone: Network, px: int, cache: Cache | None = None, batch: int = BATCH) -> Eyes:
    ways = {"image": features, "patches": patch_features, "blocks": block_features}

    def seeing(kind: str) -> Embedding:
        def see(pictures: Pictures) -> Tensor:
            return ways[kind](backbone, evaluation_batches(pictures, px, batch))

        return remembered(see, kind, px, cache) if cache else see

    return Eyes(*(seeing(kind) for kind in Eyes._fields))


def pixel_eyes(px: int, patch: int) -> Eyes:
    """The reference that has learnt nothing and computes nothing."""
    return Eyes(pixels, lambda pictures: pixel_patches(pictures, px, patch), None)


def remembered(see: Embedding, kind: str, px: int, cache: Cache) -> Embedding:
    """`see`, which looks at pictures of known content once in the life of the cache."""

    def remember(pictures: Pictures) -> Tensor:
        if not pictures.images:
            return see(pictures)
        name = content_id([kind, px, cache.weights, pictures.images, provenance.code_of(provenance.SEES)])
        file = cache.folder / f"{name}.npy"
        if (kept := _read(file, len(pictures))) is not None:
            return kept
        found = see(pictures)
        with suppress(OSError):  # a full disk costs no more than time
            atomic.write(file, lambda path: _save(path, found))
        return found

    return remember


def _save(path: Path, found: Tensor) -> None:
    with path.open("wb") as file:  # by a name, numpy would add a suffix
        np.save(file, found.numpy(), allow_pickle=False)


def _read(file: Path, rows: int) -> Tensor | None:
    """None where it is not there, or damaged."""
    try:
        kept = torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
    return kept if len(kept) == rows else None
