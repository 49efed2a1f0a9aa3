"""torchvision's labelled data sets by name, from files that are there: torchvision:CIFAR10?split=test.

The files lie below the data root as torchvision lays them out; nothing is ever downloaded. `split=` stands for whatever the
data set calls it (`train=` of CIFAR10, `image_set=`); other options are its own: torchvision:DTD?split=test&partition=2.
"""

import hashlib
import inspect
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.data.decode import Unreadable
from dinov2lab.data.source import Missing
from dinov2lab.spec.nearest import did_you_mean

NOT_OPTIONS = ("self", "root", "transform", "transforms", "target_transform", "download", "loader")
LABELS = ("targets", "labels", "_labels", "y")  # where the data sets keep them; believed only where a look confirms it
LOOKS = 8  # rows that are looked at, for labels and fingerprint


class NamedSource:
    """Rows in the order of the data set. Images are encoded anew without loss, for torchvision hands out pixels."""

    def __init__(self, uri: str, root: Path) -> None:
        self.uri, self._root = uri, root
        self._data = _opened(uri, root)
        count = len(self._data)
        self._looks = sorted({round(place) for place in np.linspace(0, count - 1, LOOKS)})
        looked = [self._data[row] for row in self._looks]
        if not all(isinstance(image, Image.Image) and isinstance(label, int | np.integer) for image, label in looked):
            raise ValueError(f"{uri}: gives no pairs of an image and a number of its class")
        numbers = _labels(self._data, self._looks, [int(label) for _, label in looked])
        names = _names(self._data, int(numbers.max()) + 1)
        self.classes = tuple(sorted(names))
        place = {name: index for index, name in enumerate(self.classes)}
        self.labels: NDArray[np.int64] | None = np.array([place[name] for name in names], np.int64)[numbers]
        self.paths = tuple(f"{row:08d}.png" for row in range(count))

    def __reduce__(self) -> tuple[type["NamedSource"], tuple[str, Path]]:
        return type(self), (self.uri, self._root)  # a worker opens the files anew

    def read(self, index: int) -> bytes:
        if not 0 <= index < len(self.paths):
            raise IndexError(index)
        try:
            image = self._data[index][0]
        except (OSError, SyntaxError) as error:  # as Pillow says that a file is gone or broken
            raise Unreadable("vanished") from error
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def fingerprint(self) -> str:
        """The labels, and the pixels that the data set holds in memory, or else those of a few rows, hashed."""
        digest = hashlib.sha256(f"{self.uri.partition('?')[2]} {self.classes} {len(self.paths)}".encode())
        digest.update(np.asarray(self.labels).tobytes())
        pixels = np.asarray(getattr(self._data, "data", ()))
        if len(pixels) == len(self.paths) and pixels.dtype == np.uint8:
            digest.update(np.ascontiguousarray(pixels).data)
        else:
            for row in self._looks:
                digest.update(np.asarray(self._data[row][0]).tobytes())
        return digest.hexdigest()


def _opened(uri: str, root: Path) -> Any:
    """Raises Missing where the files are not there, ValueError for a name or an option that torchvision does not know."""
    from torchvision import datasets

    name, _, query = uri.partition(":")[2].partition("?")
    known = [each for each in datasets.__all__ if "root" in inspect.signature(getattr(datasets, each)).parameters]
    if name not in known:
        raise ValueError(f"{uri}: torchvision has no data set {name!r}{did_you_mean(name, known)}")
    kind = getattr(datasets, name)
    taken = {key: each for key, each in inspect.signature(kind).parameters.items() if key not in NOT_OPTIONS}
    options = dict(_option(uri, key, value, taken) for key, value in parse_qsl(query, keep_blank_values=True))
    try:
        found = kind(str(root), **options)
    except (RuntimeError, OSError) as error:
        said = str(error).splitlines()[0]
        raise Missing(f"{uri}: there is no {name} in {root.absolute()} as torchvision lays it out ({said})") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{uri}: {str(error).splitlines()[0]}") from error
    if not len(found):
        raise ValueError(f"{uri}: holds no images")
    return found


def _option(uri: str, key: str, text: str, taken: dict[str, inspect.Parameter]) -> tuple[str, Any]:
    """As the data set calls it, and of the kind of its default."""
    if key == "split" and key not in taken:
        key = next((other for other in ("train", "image_set") if other in taken), key)
        if key == "train" and text not in ("train", "test"):
            raise ValueError(f"{uri}: split is train or test")
        text = str(text == "train") if key == "train" else text
    if key not in taken:
        there = ", ".join("split" if each == "train" else each for each in taken) or "none"
        raise ValueError(f"{uri}: no option {key!r}; there are {there}")
    default = taken[key].default
    if isinstance(default, bool):
        return key, text.lower() in ("true", "1", "yes")
    if isinstance(default, int):
        if not text.isdecimal():
            raise ValueError(f"{uri}: {key} is a number")
        return key, int(text)
    return key, text


def _labels(data: Any, looks: Sequence[int], seen: Sequence[int]) -> NDArray[np.int64]:
    """From where the data set keeps them, if what it hands out agrees; else from every row."""
    for name in LABELS:
        kept = getattr(data, name, None)
        if kept is not None and len(kept) == len(data):
            numbers = np.asarray(kept)
            if np.issubdtype(numbers.dtype, np.integer) and numbers[list(looks)].tolist() == list(seen):
                return numbers.astype(np.int64)
    return np.array([int(data[row][1]) for row in range(len(data))], np.int64)


def _names(data: Any, count: int) -> list[str]:
    """One of each class, in the order of their numbers: their own where each has one, else numbers."""
    own = getattr(data, "classes", None) or ()
    names = [each if isinstance(each, str) else ", ".join(map(str, each)) for each in own]
    if len(names) >= count and len(set(names)) == len(names):
        return names
    return [f"{number:06d}" for number in range(count)]
