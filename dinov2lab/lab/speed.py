"""How fast this machine trains a recipe, and in how many parts its batch fits into a GPU: by a few steps."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

import torch

from dinov2lab.data.loader import Order, Pictures
from dinov2lab.draws import Key
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.training.loop import make_batch
from dinov2lab.training.parts import Parts
from dinov2lab.training.step import Batch, State, train_step

TRIES, SECONDS = 6, 3.0  # of a step, and of its views

T = TypeVar("T")


class Speed(NamedTuple):
    images: float  # a second, of one run
    micro_batches: int = 1
    gpu_gib: float | None = None  # the most that a step takes there
    decoding: float = 0.0  # share of the time


def speed_of(spec: RunSpec, pictures: Pictures, decoding: float, device: torch.device, workers: int) -> Speed:
    """Of training on images like `pictures`, which take `decoding` seconds each whenever they are seen.

    `workers` processes make views ahead of a GPU; on CPU each core has a run of its own. Raises ValueError where the batch
    does not fit into the GPU in any number of parts.
    """
    key, order = Key(spec.seed), Order(len(pictures), Key(spec.seed))

    def views() -> Batch:
        return make_batch(0, pictures, order, spec, key, torch.device("cpu"))

    views()  # decodes them
    making, batch = _best(views)
    parts, step = _in_parts_that_fit(
        spec, lambda parts: _step_seconds(spec, batch.to(device), device, Resources(micro_batches=parts))
    )
    decoding *= spec.optim.batch
    making += decoding
    if device.type == "cpu":
        return Speed(spec.optim.batch / (making + step), decoding=decoding / (making + step))
    making, taken = making / max(workers, 1), torch.cuda.max_memory_allocated(device) / 2**30
    waits = making > step
    return Speed(
        spec.optim.batch / max(step, making), parts, taken, decoding / max(workers, 1) / making if waits else 0.0
    )


def _in_parts_that_fit(spec: RunSpec, seconds: Callable[[int], float]) -> tuple[int, float]:
    """In how few micro-batches a batch may be computed, and the `seconds` of a step so. Raises ValueError where in none."""
    koleo = spec.objective.koleo
    whole = 2 * spec.optim.batch // (koleo.group if koleo.weight else 1)
    for parts in (1, 2, 4, 8, 16):
        with suppress(torch.cuda.OutOfMemoryError):
            if whole % parts == 0:
                return parts, seconds(parts)
        torch.cuda.empty_cache()
    raise ValueError(f"a batch of {spec.optim.batch} images does not fit into the GPU, in however many parts")


def _step_seconds(spec: RunSpec, batch: Batch, device: torch.device, resources: Resources) -> float:
    resources.check(spec)
    torch.set_num_threads(resources.threads)
    state, parts, key = State(spec, Key(spec.seed), device), Parts(resources), Key(spec.seed)

    def one() -> None:
        train_step(state, batch, spec, key, parts)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return _best(one)[0]


def _best(work: Callable[[], T]) -> tuple[float, T]:
    """The seconds of the fastest try: other work on a machine only slows them. What takes long is tried less often."""
    began, found = time.perf_counter(), [_timed(work)]
    while len(found) < TRIES and time.perf_counter() - began < SECONDS:
        found.append(_timed(work))
    return min(found, key=lambda each: each[0])


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done
