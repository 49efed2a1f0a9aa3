"""Pieces of work side by side, on all cores that this process may use: for what is long and the same in any order."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")


def on_all_cores(work: Callable[[Piece], None], pieces: Iterable[Piece]) -> None:
    """`work` on every piece, each on one core; what it raises is raised here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with ThreadPoolExecutor(count) as cores:
            for _ in cores.map(work, pieces):
                pass
    finally:
        torch.set_num_threads(threads)
