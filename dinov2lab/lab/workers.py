"""The processes that compute runs on this machine, and how one of them ended."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `doctor` asks how processes ended where pydantic is broken, too
    from dinov2lab.spec.run import RunSpec


def cause(code: int) -> str:
    if code == -9:
        return "signal 9 (killed by hand, or out of memory)"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class Worker:
    """A process that computes the runs it is told to (worker.py). Where there are GPUs, it sees its own of them alone."""

    def __init__(self, place: Mapping[str, object], device: str | None = None) -> None:
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": device} if device is not None else {})
        self.device = device
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dinov2lab.lab.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.pid = self._process.pid
        self.run: str | None = None  # the run it works on, or was told to
        self.begun = False  # whether it ever worked on one
        self.tell(place)
        threading.Thread(target=self._listen, daemon=True).start()

    def compute(self, run: str, spec: "RunSpec") -> None:
        self.tell({"run": run, "spec": spec.model_dump(mode="json")})

    def tell(self, order: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died; its exit code will tell
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, run = line.strip().partition(" ")
            if word == "begin":
                self.run, self.begun = run, True
            elif word == "end":
                self.run = None

    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int:
        return self._process.returncode or 0

    def ask_to_stop(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def dismiss(workers: Sequence[Worker]) -> None:
    """Ask all of them to write a checkpoint and leave, and wait for them; a second Ctrl-C ends them at once."""
    try:
        for worker in workers:
            worker.ask_to_stop()
        while any(worker.alive() for worker in workers):
            time.sleep(0.05)
    except KeyboardInterrupt:
        for worker in workers:
            worker.kill()
        raise
