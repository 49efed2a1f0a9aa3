"""The processes that train runs together, as the first of them sees it: it gives the others orders and notices their end.

The others are started here, or by Slurm beside this one (job.py); what they do is member.py. All but training is done by the
first process alone.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dinov2lab.lab.workers import cause
from dinov2lab.store.aside import aside
from dinov2lab.training.distributed import Meeting, Place
from dinov2lab.training.step import Diverged

GRACE = 30.0  # seconds for a collective to notice by itself that a process is gone; gloo does, NCCL waits for ever
TOLD = 5.0  # seconds in which the others say why they ended
LEAVING = 60.0  # seconds in which processes that somebody else started have come, and heard that there is nothing to do


class Lost(Exception):
    """Another process of the run has died. The last checkpoint stands."""


class Team:
    """So many processes, this one with them. One is no more than itself."""

    def __init__(self, size: int = 1, meeting: Meeting | None = None) -> None:
        """`meeting`: to which the others come by themselves; without one they are started here."""
        self.size, self._meeting, self._come = size, meeting, meeting is not None
        self._others: list[subprocess.Popen[bytes]] = []
        self._turn = 0

    @contextmanager
    def training(self, order: dict[str, Any], device: torch.device) -> Iterator[None]:
        """Inside, the others carry out `order`, and collectives reach them.

        Raises Lost where one of them has died, and ValueError where one could not go on, with its words.
        """
        if self.size == 1:
            yield
            return
        meeting = self._gather()
        self._turn += 1
        meeting.tell(f"order {self._turn}", json.dumps(order))
        try:
            self._wait_for_others(meeting)
            with meeting.joined(self._turn, device), self._watched():
                yield
        except Diverged:  # so have all
            raise
        except RuntimeError as error:
            reason = self._reason(meeting)
            self.dismiss()
            raise reason or error from error
        except BaseException:
            self.dismiss()
            raise

    def leave(self) -> None:
        """Let the others go, and wait until they have heard it."""
        if self._meeting is None:
            return
        self._meeting.tell(f"order {self._turn + 1}", "null")
        for process in self._others:
            process.wait()
        deadline = time.monotonic() + LEAVING
        while self._come and time.monotonic() < deadline:
            if all(self._meeting.told(f"left {rank}") for rank in range(1, self.size)):
                break
            time.sleep(0.05)
        self._meeting, self._others = None, []

    def dismiss(self) -> None:
        """End the others at once: they wait for this process, which has left the training."""
        for process in self._others:
            process.kill()
            process.wait()
        if not self._come:
            self._meeting, self._others = None, []

    def _gather(self) -> Meeting:
        if self._meeting is None:
            self._meeting, self._turn = Meeting(Place(0, self.size)), 0
            self._others = [self._start(rank, self._meeting.port) for rank in range(1, self.size)]
        return self._meeting

    def _start(self, rank: int, port: int) -> "subprocess.Popen[bytes]":
        words = [str(number) for number in (rank, self.size, port, os.getpid())]
        command = [sys.executable, "-m", "dinov2lab.lab.member", *words]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _wait_for_others(self, meeting: Meeting) -> None:
        while not all(meeting.told(f"here {self._turn} {rank}") for rank in range(1, self.size)):
            if any(process.poll() is not None for process in self._others):
                raise RuntimeError("a process has ended before it began")
            time.sleep(0.02)

    def _reason(self, meeting: Meeting) -> Exception | None:
        """Why the others have ended, if they have."""
        deadline = time.monotonic() + TOLD
        while time.monotonic() < deadline:
            for rank in range(1, self.size):
                if words := meeting.told(f"words {self._turn} {rank}"):
                    return ValueError(f"process {rank + 1} of {self.size}: {words}")
            if self._others and all(process.poll() is not None for process in self._others):
                break
            time.sleep(0.05)
        codes = [(process.returncode, rank + 2) for rank, process in enumerate(self._others) if process.returncode]
        if codes:  # a signal is a cause; that the connection to another one is lost is none
            code, number = min(codes)
            return Lost(f"process {number} of {self.size} died of {cause(code)}")
        return Lost("another process of the run is gone") if self._come else None

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Inside, this process ends where another one has died and the collective that waits for it does not notice."""

        def watch(over: threading.Event) -> None:
            while not over.wait(0.5):
                for rank, process in enumerate(self._others):
                    if process.poll() is not None and not over.wait(GRACE):
                        died = f"process {rank + 2} of {self.size} died of {cause(process.returncode)}"
                        os.write(sys.stderr.fileno(), f"{died}\n".encode())
                        os._exit(1)

        with aside(watch):
            yield


@contextmanager
def team_of(size: int) -> Iterator[Team]:
    """`size` processes on this machine, started when they are first needed."""
    team = Team(size)
    try:
        yield team
        team.leave()
    finally:
        team.dismiss()
