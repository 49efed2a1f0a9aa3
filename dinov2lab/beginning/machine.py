"""What a run may use of this machine, as far as it decides on a recipe."""

from typing import NamedTuple

import torch

from dinov2lab.lab.devices import cores, multiplies_bf16
from dinov2lab.lab.premises import GIB, available_memory

GIB_OF_A_RUN = 2.0  # of main memory: libraries, a small network and decoded images


class Machine(NamedTuple):
    cores: int
    memory_gib: float | None  # that are free
    gpus: tuple[str, ...]  # their names
    bf16: bool  # whether its products are the machine's own

    @property
    def jobs(self) -> int:
        """Runs at a time, that have a core or a GPU and main memory each."""
        at_once = len(self.gpus) or self.cores
        return at_once if self.memory_gib is None else max(1, min(at_once, int(self.memory_gib / GIB_OF_A_RUN)))

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.gpus else "cpu")

    def __str__(self) -> str:
        free = "" if self.memory_gib is None else f", {self.memory_gib:.0f} GiB of memory free"
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        return f"{', '.join(self.gpus)}, {cores}{free}" if self.gpus else f"{cores}, no GPU{free}"


def this_machine() -> Machine:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = tuple(torch.cuda.get_device_name(number) for number in range(count))
    bf16 = torch.cuda.is_bf16_supported() if gpus else multiplies_bf16()
    free = available_memory()
    return Machine(cores(), free / GIB if free is not None else None, gpus, bf16)
