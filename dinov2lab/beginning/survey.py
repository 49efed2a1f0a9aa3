"""A first look at images: how many can be read, how large they are, and how many are copies of others, on a sample.

N files   n sampled ones, at random   P pairs of near copies among them
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import gammaincinv

from dinov2lab.beginning.layout import Layout
from dinov2lab.curation import copies, dedup
from dinov2lab.curation.scan import pixel_key
from dinov2lab.data.loader import CACHE_BYTES
from dinov2lab.data.source import FolderSource, Unreadable, decode
from dinov2lab.draws import Key, permutation
from dinov2lab.lab.devices import cores

SAMPLE = 2000  # images: near copies among so many are found in half a minute of a core
SECONDS = 30.0  # for reading them, by the clock or of processor time: photographs of many megapixels end it sooner
FINE = 16 * copies.PX  # a shorter side of which no more is averaged: a picture's pixel is the mean of 256 or more then
LIKE = 0.8  # the score from which on two images are near copies (docs/copies.md)
LEAST = 128  # images that can be read: two batches of a small recipe

Tell = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


class Sizes(NamedTuple):
    """Of the images that could be read: their shorter side in pixels (5 %, half, 95 % are below), and more."""

    low: int
    middle: int
    high: int
    aspect: float  # longer by shorter side, of the middle one
    bytes: float  # of decoded pixels, on average


class Survey(NamedTuple):
    layout: Layout
    sampled: int
    unreadable: dict[str, int]  # reason -> sampled files
    sizes: Sizes
    exact: int  # sampled images that show just what another one shows
    copied: int  # sampled images that have a near copy among those that were sampled, exact ones included
    pairs: int  # of near copies among them
    seconds: float = 0.0  # of a core, to read and decode an image, on average
    rows: tuple[int, ...] = ()  # sampled images that could be read, in the order in which they were drawn

    @property
    def images(self) -> int:
        """Of the files to train on, how many can be read: an estimate, unless all were sampled."""
        return round(self.layout.images * (1 - sum(self.unreadable.values()) / self.sampled))

    @property
    def whole(self) -> bool:
        return self.sampled == self.layout.images

    @property
    def decoded_once(self) -> bool:
        """Whether all of them, decoded, fit into the cache of a run."""
        return self.sizes.bytes * self.images <= CACHE_BYTES

    @property
    def copied_share(self) -> float:
        """Of all images, those that have a near copy.

        Both of a pair are in a sample of n of N with probability n (n - 1) / (N (N - 1)), so that there are as many times
        more pairs than were seen. Each is taken for two images of its own; if copies come in larger groups, there are fewer.
        """
        seen = self.sampled - sum(self.unreadable.values())
        return self.copied / seen if self.whole else self._share_of(self.pairs)

    @property
    def hidden_share(self) -> float:
        """The largest share of copied images that such a sample shows no more pairs of than it did, in one of twenty."""
        return self.copied_share if self.whole else self._share_of(poisson_upper(self.pairs))

    def _share_of(self, pairs: float) -> float:
        seen, there = self.sampled - sum(self.unreadable.values()), self.images
        return min(1.0, 2 * pairs * (there - 1) / (max(seen, 2) * (max(seen, 2) - 1)))


def poisson_upper(count: int) -> float:
    """The mean of which a draw is at most `count` in 5 % (of 0: three)."""
    return float(gammaincinv(count + 1, 0.95))


class _Seen(NamedTuple):
    width: int
    height: int
    pixels: str  # scan.pixel_key
    picture: NDArray[np.uint8]  # (P, P, 3), as the detector of copies wants it
    seconds: float  # of a core, to read and decode it


def survey(folder: Path, layout: Layout, tell: Tell) -> Survey:
    """Of the images to train on in `folder`. Raises ValueError where too few of them can be read."""
    source = FolderSource(layout.uri, folder / layout.train)
    rows = permutation(Key(0), "survey", len(source.paths))[:SAMPLE].tolist()
    looked: list[_Seen | str] = []
    for place, each in enumerate(_looks(source, rows)):
        if place % 16 == 0:
            tell("look at images", place, len(rows))
        looked.append(each)
    tell("look at images", len(rows), len(rows))
    seen = [each for each in looked if not isinstance(each, str)]
    unreadable = dict(Counter(each for each in looked if isinstance(each, str)).most_common())
    readable = round(layout.images * len(seen) / len(looked))
    if readable < LEAST:
        why = ", ".join(f"{count} {reason}" for reason, count in unreadable.items())
        raise ValueError(
            f"{layout.uri}: {readable} images that can be read are too few to train on; at least {LEAST} are wanted"
            + (f" (of {len(looked)} files: {why})" if why else "")
            + "".join(f"; {note}" for note in layout.notes)
        )
    tell("compare images", 0, 1)
    exact, copied, pairs = _copies(seen)
    tell("compare images", 1, 1)
    kept = tuple(row for row, each in zip(rows, looked, strict=False) if not isinstance(each, str))
    seconds = statistics.fmean(each.seconds for each in seen)
    return Survey(layout, len(looked), unreadable, _sizes(seen), exact, copied, pairs, seconds, kept)


def _looks(source: FolderSource, rows: Sequence[int]) -> Iterator[_Seen | str]:
    """What `rows` show, or the reason why they cannot be read; fewer where they take longer than SECONDS."""
    began = time.monotonic(), time.process_time()
    pool = ThreadPoolExecutor(cores())  # decoders work beside one another
    try:
        for place, each in enumerate(pool.map(lambda row: _look(source, row), rows)):
            took = max(time.monotonic() - began[0], time.process_time() - began[1])
            if place >= LEAST and took > SECONDS:
                return
            yield each
    finally:
        pool.shutdown(cancel_futures=True)


def _look(source: FolderSource, row: int) -> _Seen | str:
    began = time.thread_time()
    try:
        pixels = decode(source.read(row))
    except Unreadable as error:
        return error.reason
    took = time.thread_time() - began
    return _Seen(pixels.shape[1], pixels.shape[0], pixel_key(pixels), _picture(pixels), took)


def _picture(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) -> (P, P, 3), of every k-th pixel of a large one: asking all of them takes a third as long as decoding."""
    step = max(1, min(pixels.shape[:2]) // FINE)
    some = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    return np.asarray(some.resize((copies.PX, copies.PX), Image.Resampling.BILINEAR))


def _sizes(seen: Sequence[_Seen]) -> Sizes:
    short = np.array([min(each.width, each.height) for each in seen])
    low, middle, high = (int(value) for value in np.percentile(short, (5, 50, 95)))
    aspect = statistics.median(max(each.width, each.height) / min(each.width, each.height) for each in seen)
    return Sizes(low, middle, high, round(aspect, 2), statistics.fmean(3 * each.width * each.height for each in seen))


def _copies(seen: Sequence[_Seen]) -> tuple[int, int, int]:
    """(images that show just what an earlier one shows, images with a near copy, pairs of near copies)."""
    pictures, pixels = np.stack([each.picture for each in seen]), np.array([each.pixels for each in seen], bytes)
    found = dedup.find_pairs(dedup.Rows(pictures, pictures, pixels, pictures=True), LIKE, len(seen))
    return len(seen) - len(np.unique(pixels)), len(np.union1d(found.a, found.b)), len(found.a)
