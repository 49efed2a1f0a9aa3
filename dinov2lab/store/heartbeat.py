"""A sign of life of the process that computes a run, for those who cannot see its lock: another node, another file system."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dinov2lab.store import atomic
from dinov2lab.store.aside import aside
from dinov2lab.store.result import RunFolder

BEAT = 10.0  # seconds
SILENCE = 60.0  # seconds after which nobody is there


@contextmanager
def beating(folder: RunFolder) -> Iterator[None]:
    """While inside, heartbeat.json is touched again and again; it goes at the end, however the end comes about but a kill."""
    words = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
    atomic.write_json(folder.heartbeat, words)

    def beat(over: threading.Event) -> None:
        while not over.wait(BEAT):
            with suppress(OSError):  # a full disk ends no run for want of a heartbeat
                os.utime(folder.heartbeat)

    try:
        with aside(beat):
            yield
    finally:
        folder.heartbeat.unlink(missing_ok=True)


def alive(folder: RunFolder) -> bool:
    with suppress(OSError):
        # Of the future, it is from before the clock was set back: who lives touches it again within a beat.
        return abs(time.time() - folder.heartbeat.stat().st_mtime) < SILENCE
    return False


def words(folder: RunFolder) -> str:
    """Where the run is computed, or was when it was last heard of."""
    try:
        said = json.loads(folder.heartbeat.read_bytes())
        return f"process {said['pid']} on {said['host']}" + (f", job {said['job']}" if said["job"] else "")
    except (OSError, ValueError, KeyError):
        return "nowhere"
