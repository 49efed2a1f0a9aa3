"""Folders that were looked at, and machines, as they are told to whatever proposes something for them."""

from typing import Any

from dinov2lab.beginning.layout import Layout
from dinov2lab.beginning.machine import Machine
from dinov2lab.beginning.survey import Sizes, Survey

CORES = Machine(cores=2, memory_gib=16.0, gpus=(), bf16=True)
GPU = Machine(cores=16, memory_gib=128.0, gpus=("a GPU",), bf16=True)
CLASSES = {"cats": 20_000, "dogs": 30_000}


def labelled(test: str | None = "test", **changes: Any) -> Layout:
    whole = {"train": "train", "test": test, "classes": CLASSES, "images": 50_000, "tested": 10_000} | changes
    return Layout(**whole)


def looked(layout: Layout | None = None, side: int = 400, **changes: Any) -> Survey:
    """50,000 labelled images with a test set, without copies, unless something else is said."""
    known = {"sampled": 2000, "unreadable": {}, "exact": 0, "copied": 0, "pairs": 0} | changes
    return Survey(layout or labelled(), sizes=Sizes(side // 2, side, side * 2, 1.33, 3.0 * side**2), **known)
