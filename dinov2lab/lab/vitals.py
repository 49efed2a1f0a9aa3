"""What a run's machine is at while it is computed: system.jsonl, a row now and then, for MLflow's tab of system metrics.

The names are MLflow's own. Nothing of it is a result: two runs of one id may have been computed side by side with anything.
Energy is that since the row before: of the GPUs by their power at the row's time, of the CPUs by the counters of their
packages, whoever used them, where the machine lets them be read.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dinov2lab.lab.devices import seen_gpus
from dinov2lab.store.aside import aside
from dinov2lab.store.result import RunFolder

EVERY = 10.0  # seconds
TAIL = 1 << 16  # bytes of metrics.jsonl that hold its last row
PROC = Path("/proc")
PACKAGES = Path("/sys/class/powercap")  # what Intel's and AMD's processors tell of their energy, by RAPL


class Busy(NamedTuple):
    """Seconds since the machine, and since this process, began."""

    machine: float
    machine_idle: float
    process: float


class Counted(NamedTuple):
    """By the clock, and by the counters of the CPUs' packages."""

    clock: float  # s
    packages: dict[str, int]  # microjoules, from zero again after their range


@contextmanager
def taken(folder: RunFolder, every: float = EVERY) -> Iterator[None]:
    """While inside, rows are added from a thread; one at least, at the end, unless the machine tells nothing."""
    before, counted = _busy(), _counted()

    def take() -> None:
        nonlocal before, counted
        with suppress(OSError, ValueError):  # a full disk ends no run for want of a row
            now, count, gpus = _busy(), _counted(), _of_gpus()
            row = {"time": round(time.time() * 1000), "images": _images(folder)} | _read(before, now) | gpus
            row |= _energy(counted, count, gpus)
            before, counted = now, count
            with folder.vitals.open("ab") as file:
                file.write(json.dumps(row).encode() + b"\n")

    def go_on(over: threading.Event) -> None:
        while not over.wait(every):
            take()
        take()

    _mend(folder.vitals)
    with aside(go_on):
        yield


def _mend(file: Path) -> None:
    """Cut off the half of a row that a kill has left."""
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)


def _images(folder: RunFolder) -> int:
    """Seen so far: the steps of MLflow's charts are in images."""
    if not folder.metrics.exists():
        return 0
    with folder.metrics.open("rb") as file:
        file.seek(max(0, folder.metrics.stat().st_size - TAIL))
        lines = file.read().rpartition(b"\n")[0].splitlines()
    return int(json.loads(lines[-1])["images"]) if lines else 0


def _busy() -> Busy | None:
    with suppress(OSError, ValueError, IndexError):
        ticks = float(os.sysconf("SC_CLK_TCK"))
        machine = [float(word) / ticks for word in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
        own = (PROC / "self/stat").read_text().rpartition(")")[2].split()
        return Busy(sum(machine), machine[3] + machine[4], (float(own[11]) + float(own[12])) / ticks)
    return None


def _read(before: Busy | None, now: Busy | None) -> dict[str, float]:
    values = {}
    if before and now and (passed := now.machine - before.machine) > 0:
        share = passed / (os.cpu_count() or 1)  # seconds by the clock
        values["system/cpu_utilization_percentage"] = 100 * (1 - (now.machine_idle - before.machine_idle) / passed)
        values["system/process_cpu_percentage"] = 100 * (now.process - before.process) / share
    memory = _kilobytes(PROC / "meminfo")
    if {"MemTotal", "MemAvailable"} <= memory.keys():
        used = memory["MemTotal"] - memory["MemAvailable"]
        values["system/system_memory_usage_megabytes"] = used / 1024
        values["system/system_memory_usage_percentage"] = 100 * used / memory["MemTotal"]
    if "VmRSS" in (own := _kilobytes(PROC / "self/status")):
        values["system/process_memory_megabytes"] = own["VmRSS"] / 1024
    return {name: round(value, 2) for name, value in values.items()}


def _counted() -> Counted:
    packages = {}
    for folder in PACKAGES.glob("intel-rapl:*"):  # AMD's too; -mmio tells of the same ones again
        with suppress(OSError, ValueError):  # most systems let none but root read them
            if (folder / "name").read_text().startswith("package"):  # what is below a package is in its count
                packages[folder.name] = int((folder / "energy_uj").read_text())
    return Counted(time.monotonic(), packages)


def _energy(before: Counted, now: Counted, gpus: dict[str, float]) -> dict[str, float]:
    """Joules between two looks, of what is known."""
    values = {}
    if watts := [value for name, value in gpus.items() if name.endswith("power_usage_watts")]:
        values["system/gpu_energy_joules"] = sum(watts) * (now.clock - before.clock)
    if now.packages and now.packages.keys() == before.packages.keys():
        with suppress(OSError, ValueError):
            spent = [_since(name, before.packages[name], count) for name, count in now.packages.items()]
            values["system/cpu_energy_joules"] = sum(spent) / 1e6
    return {name: round(value, 3) for name, value in values.items()}


def _since(package: str, before: int, now: int) -> int:
    again = int((PACKAGES / package / "max_energy_range_uj").read_text()) if now < before else 0
    return now + again - before


def _kilobytes(file: Path) -> dict[str, float]:
    lines = [line.split() for line in file.read_text().splitlines()]
    return {line[0].rstrip(":"): float(line[1]) for line in lines if line[-1:] == ["kB"]}


def _of_gpus() -> dict[str, float]:
    """Of those that this process may use."""
    values = {}
    for index, _, busy, used, total, watts in seen_gpus("utilization.gpu,memory.used,memory.total,power.draw"):
        name = f"system/gpu_{index}"
        for what, word in (
            ("utilization_percentage", busy),
            ("memory_usage_megabytes", used),
            ("power_usage_watts", watts),
        ):
            with suppress(ValueError):  # a card that does not tell says so in words
                values[f"{name}_{what}"] = float(word)
        with suppress(ValueError, ZeroDivisionError):
            values[f"{name}_memory_usage_percentage"] = round(100 * float(used) / float(total), 2)
    return values
