"""Processes that train together, forked from the test's."""

import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from dinov2lab.training.distributed import Meeting, Place

CPU = torch.device("cpu")


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` returns in each of `count` processes, to which collectives reach; what it raises as its text."""
    context = multiprocessing.get_context("fork")
    ports = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_begin, args=(Place(rank, count), ports, Path(folder), work))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(600)
            assert process.exitcode == 0
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(count)]


def _begin(place: Place, ports: "SimpleQueue[int]", folder: Path, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    meeting = Meeting(place if place.rank == 0 else place._replace(port=ports.get()))
    for _ in range(1, place.of if place.rank == 0 else 1):
        ports.put(meeting.port)
    with meeting.joined(0, CPU):
        try:
            result = work(place.rank)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        torch.save(result, folder / str(place.rank))
