"""What the coming steps need, made by processes while the present step computes.

Each process is forked from the run's, works on one thread, and gives what the run would have made itself, bit for bit. It
dies with the run however the run dies: the system kills it. That matters beyond tidiness, for a forked process shares the
lock on the run's folder.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

EACH = 2  # results that a process has ready
_PR_SET_PDEATHSIG = 1  # prctl(2)


def ahead(make: Callable[[int], T], steps: range, workers: int) -> Generator[T]:
    """`make(step)` for each of `steps`, in order; with 0 workers here and when it is asked for.

    A ValueError of `make` is raised when its step comes. Close the iterator to end the processes before its end.
    """
    if not workers or not len(steps):
        for step in steps:
            yield _on_one_thread(make, step)
        return
    run = os.getpid()
    made = iter(
        DataLoader(
            _Steps(make, steps),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=EACH,
            multiprocessing_context="fork",  # the others would import torch again, for seconds
            worker_init_fn=lambda _: _begin(run),
        )
    )
    try:
        for item in made:
            if isinstance(item, ValueError):
                raise item
            yield item
    finally:
        # Ends the processes and waits for them, now: an exception's traceback would keep the iterator until the exit, where
        # torch takes the end of its processes for a fault.
        made._shutdown_workers()  # type: ignore[attr-defined]  # not public


def _on_one_thread(make: Callable[[int], T], step: int) -> T:
    """As in a process of its own: sums depend on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return make(step)
    finally:
        torch.set_num_threads(threads)


class _Steps(Dataset[T | ValueError], Generic[T]):
    def __init__(self, make: Callable[[int], T], steps: range) -> None:
        self._make, self._steps = make, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> T | ValueError:
        try:
            return self._make(self._steps[index])
        except ValueError as error:  # as it is: the loader would wrap it in its own words and a traceback
            return error


def _begin(run: int) -> None:
    for told in (signal.SIGINT, signal.SIGTERM):  # a Ctrl-C, a cluster's warning: they reach all; the run decides
        signal.signal(told, signal.SIG_IGN)
    die_with(run)


def die_with(parent: int) -> None:
    """Have the system kill this process when `parent` dies, however that dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
