"""The processes that train one run: where they meet, and the group that collectives reach.

Each process holds the images of its part of every batch and all of the weights; gradients and metrics are averaged.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

LOOPBACK = "127.0.0.1"
COMING = timedelta(minutes=15)  # between the first process that is there and the last one
FOR_EVER = timedelta(days=365)  # the others wait while the first one evaluates; who dies is noticed otherwise


class Place(NamedTuple):
    """Of a process among those that train together."""

    rank: int = 0
    of: int = 1
    here: int = 0  # its number on its machine: of the GPUs that it sees, this one is its own
    host: str = LOOPBACK  # of the first one; here where all are on one machine
    port: int = 0  # of the first one's store; 0: any


class Meeting:
    """A store of words that the first process keeps, through which the others hear what to do and say why they cannot."""

    def __init__(self, place: Place) -> None:
        self.place = place
        listening = _listening(place) if place.rank == 0 else None
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            place.host,
            listening.getsockname()[1] if listening else place.port,
            is_master=listening is not None,
            wait_for_workers=False,
            timeout=COMING,
            master_listen_fd=listening.detach() if listening else None,
        )
        self._store.set_timeout(FOR_EVER)

    @property
    def port(self) -> int:
        return int(self._store.port)

    def tell(self, key: str, words: str) -> None:
        self._store.set(key, words)

    def hear(self, key: str) -> str:
        """Wait until somebody tells it. Raises RuntimeError where the first process is gone."""
        return bytes(self._store.get(key)).decode()

    def told(self, key: str) -> str | None:
        return self.hear(key) if self._store.check([key]) else None

    @contextmanager
    def joined(self, turn: int, device: torch.device) -> Iterator[None]:
        """Inside, collectives reach all processes of the meeting: through NCCL on CUDA, and gloo on the CPU."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.place.host == LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else the address of the machine's name
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"turn {turn}", self._store),  # type: ignore[attr-defined]
            rank=self.place.rank,
            world_size=self.place.of,
            timeout=FOR_EVER,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def _listening(place: Place) -> socket.socket:
    """At the one address at which the others look for it; by itself the store listens on every network."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    return socket.create_server((place.host, place.port), family=family)
