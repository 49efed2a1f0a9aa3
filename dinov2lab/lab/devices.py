"""What of this machine jobs can have for their own: the GPUs that nobody uses, and the cores that there is time for."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

USED_MB = 1000.0  # of a GPU's memory that a desktop may take; more, and somebody computes on it
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
CPUINFO = Path("/proc/cpuinfo")


def cores() -> int:
    """Those that this process may use; no more than a container gives time for, whatever it shows."""
    allowed, given = len(os.sched_getaffinity(0)), quota()
    return allowed if given is None else min(allowed, max(1, round(given)))


def quota() -> float | None:
    """Cores that the control group of a container gives time for; none where it sets no limit."""
    try:
        words = CPU_MAX.read_text().split()
    except OSError:
        return None
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def multiplies_bf16() -> bool:
    """Whether the processor itself does, by what Linux tells of it; else torch imitates it, many times slower than fp32."""
    try:
        words = set(CPUINFO.read_text().split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16"})  # the last one is ARM's


def free_gpus() -> tuple[str, ...]:
    """By their names for CUDA_VISIBLE_DEVICES, of those that it lets this process see; none where there is no nvidia-smi."""
    allowed = _allowed()
    seen = seen_gpus("memory.used")
    return tuple(
        index if allowed is None or index in allowed else uuid for index, uuid, used in seen if float(used) < USED_MB
    )


def seen_gpus(columns: str) -> list[list[str]]:
    """Index, name and `columns` of nvidia-smi, of each GPU that CUDA_VISIBLE_DEVICES lets this process see."""
    allowed = _allowed()
    if allowed == [""] or shutil.which("nvidia-smi") is None:
        return []
    asked = [[word.strip() for word in line.split(",")] for line in _asked(f"index,uuid,{columns}").splitlines()]
    return [words for words in asked if allowed is None or set(words[:2]) & set(allowed)]


def _allowed() -> list[str] | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible is not None else None


def _asked(columns: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return ""
