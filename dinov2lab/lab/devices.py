"""The GPUs of this machine that nobody uses, so that each job can have one of its own."""

import os
import subprocess
from contextlib import suppress

USED_MB = 1000.0  # of a GPU's memory that a desktop may take; more, and somebody computes on it


def free_gpus() -> tuple[str, ...]:
    """By their names for CUDA_VISIBLE_DEVICES, of those that it lets this process see; none where there is no nvidia-smi."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    allowed = visible.split(",") if visible is not None else None
    found = []
    for line in _asked("index,uuid,memory.used").splitlines():
        index, uuid, used = (word.strip() for word in line.split(","))
        name = index if allowed is None or index in allowed else uuid
        if (allowed is None or name in allowed) and float(used) < USED_MB:
            found.append(name)
    return tuple(found)


def _asked(columns: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return ""
