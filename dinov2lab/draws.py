"""Random numbers keyed by what they are for, never by who draws them.

A draw is a pure function of (seed, replicate, purpose, position, index): the same sample gets the same crops on any worker,
rank or resume, and there is no state to save. The mixing function is SplitMix64's finaliser (Steele et al. 2014).
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Key(NamedTuple):
    """The root of a run's random streams."""

    seed: int
    replicate: int = 0

    def stream(self, purpose: str) -> np.uint64:
        text = f"{self.seed}/{self.replicate}/{purpose}".encode()
        return np.uint64(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def bits(key: Key, purpose: str, positions: ArrayLike, count: int) -> NDArray[np.uint64]:
    """(P, count) independent 64-bit words: row p belongs to `positions[p]` alone."""
    where = np.asarray(positions, dtype=np.uint64).reshape(-1, 1)
    with np.errstate(over="ignore"):
        rows = _mixed(key.stream(purpose) + _GOLDEN * (where + np.uint64(1)))
        return _mixed(rows + _GOLDEN * (np.arange(count, dtype=np.uint64) + np.uint64(1)))


def uniforms(key: Key, purpose: str, positions: ArrayLike, count: int) -> NDArray[np.float64]:
    """(P, count) numbers, uniform in [0, 1)."""
    return (bits(key, purpose, positions, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: Key, purpose: str, size: int) -> NDArray[np.int64]:
    """(size,) a permutation of range(size)."""
    return np.argsort(bits(key, purpose, np.arange(size), 1)[:, 0], kind="stable")


def torch_seed(key: Key, purpose: str) -> int:
    """A seed for torch.Generator, for initial weights."""
    return int(key.stream(purpose) >> np.uint64(1))
