"""The training loop: batch, views, losses, step, teacher, and a line of metrics."""

import json
import math
import resource
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dinov2lab import collectives
from dinov2lab.data.ahead import ahead
from dinov2lab.data.loader import Order, Pictures
from dinov2lab.data.views import block_masks, views
from dinov2lab.draws import Key
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store import atomic
from dinov2lab.store.result import RunFolder
from dinov2lab.training import checkpoint
from dinov2lab.training.collapse import Watch
from dinov2lab.training.distributed import is_cut, whole
from dinov2lab.training.parts import Part, Parts, of_this_process
from dinov2lab.training.schedules import values_at
from dinov2lab.training.start import Start
from dinov2lab.training.step import Batch, Diverged, State, train_step

Probe = Callable[[Backbone, Backbone], dict[str, float]]  # of teacher and student

JUDGE = "val/knn"  # says which look was the best
ROWS = 250  # of metrics.jsonl that a run writes, about


class Trained(NamedTuple):
    backbone: Backbone  # the teacher's
    seconds: float
    peak_memory_mb: float  # of the process that had most
    verdict: str  # see training/collapse.py


class MetricsLog:
    """metrics.jsonl: a row that is there already is never written again, a line that a kill cut short is dropped.

    Of several processes the first one writes.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path, self._best_file = folder.metrics, folder.best
        rows, whole = folder.rows_after(0)
        self._best = max((row.get(JUDGE, -math.inf) for row in rows), default=-math.inf)
        self.last_step = collectives.of_first_rank(rows[-1]["step"] if rows else -1)
        if self._path.exists() and collectives.rank() == 0:
            with self._path.open("r+b") as file:
                file.truncate(whole)

    def write(self, step: int, images: int, values: dict[str, float]) -> None:
        row = {"step": step, "images": images, "time": int(time.time() * 1000), **values}
        if collectives.rank() == 0:
            with self._path.open("ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
        self.last_step = step

    def keep_best(self, teacher: Backbone, row: dict[str, float]) -> None:
        """Where no look before was as good; before its row is written, so that a kill leaves one that a row tells of."""
        if row.get(JUDGE, -math.inf) > self._best:
            self._best = row[JUDGE]
            if collectives.rank() == 0:
                checkpoint.save_backbone(teacher, self._best_file)


def train(
    spec: RunSpec,
    pictures: Pictures,
    folder: RunFolder,
    resources: Resources,
    device: torch.device,
    probe: Probe,
    stop: Callable[[], bool] = lambda: False,
    start: Start | None = None,
    frozen: nn.ModuleDict | None = None,
) -> Trained | None:
    """Train from the last checkpoint to the end, first from `start`; None where `stop` asked for an end, with a checkpoint.

    All processes of a run call it. The first one alone writes; `probe` and `stop` may be each one's own.
    Raises Diverged, after which the last checkpoint still stands and diverged.json names the images of that step.
    """
    key = Key(spec.seed, spec.replicate)
    batch, steps = spec.optim.batch, spec.optim.steps
    log_every = max(1, steps // ROWS)
    resources.check(spec)
    parts = Parts(resources)
    state = State(spec, key, device, start, frozen, resources.shard)
    spent = checkpoint.restore(state, folder.checkpoint)
    log = MetricsLog(folder)
    order = Order(len(pictures), key)
    started = saved = time.monotonic()
    pace = Pace(batch)
    cpu, ours = torch.device("cpu"), of_this_process()
    make = partial(make_batch, pictures=pictures, order=order, spec=spec, key=key, device=cpu, part=ours)
    watch = Watch(spec, state, folder)
    with (
        closing(ahead(make, range(state.step, steps), resources.workers)) as batches,
        checkpoint.writing(folder.checkpoint, resources.checkpoints) as writer,
    ):
        while state.step < steps:
            step = state.step
            try:
                logged = train_step(state, next(batches).to(device), spec, key, parts)
            except Diverged as error:
                names = [pictures.name(index) for index in order(positions_of(step, batch)).tolist()]
                if collectives.rank() == 0:
                    atomic.write_json(folder.diverged, {"step": step, "reason": str(error), "samples": names})
                raise
            pace.tick()
            seen = (step + 1) * batch
            last = state.step == steps
            row: dict[str, float] = {}
            if state.step > log.last_step and (last or state.step % log_every == 0):
                row |= described(logged, step, spec) | {"speed/images_per_second": pace.images_per_second()}
            if state.step > log.last_step and (
                last or seen // spec.evaluation.every > step * batch // spec.evaluation.every
            ):
                teacher = whole_backbone(state.teacher, spec)
                row |= probe(teacher, whole_backbone(state.student, spec))
                log.keep_best(teacher, row)
                pace.restart()
            row |= watch.see(logged)
            if row and state.step > log.last_step:
                log.write(state.step, seen, row)
            now = time.monotonic()
            stopping, due = collectives.any_over_ranks(stop() and not last, now - saved >= resources.checkpoint_seconds)
            if last or stopping or due:
                writer.save(state, spent + now - started)
                saved = now
            if stopping:
                return None
    seconds = spent + time.monotonic() - started
    peak = collectives.max_over_ranks(torch.tensor(peak_memory_mb(device), dtype=torch.float64))
    return Trained(whole_backbone(state.teacher, spec), seconds, float(peak), watch.verdict())


def positions_of(step: int, batch: int) -> NDArray[np.int64]:
    return np.arange(step * batch, (step + 1) * batch)


def make_batch(
    step: int,
    pictures: Pictures,
    order: Order,
    spec: RunSpec,
    key: Key,
    device: torch.device,
    part: Part = Part(),
) -> Batch:
    """The views and masks of one step, of the images of one part of it; a function of the step alone."""
    mine = part.rows(spec.optim.batch)
    positions = positions_of(step, spec.optim.batch)[mine]
    crops = views([pictures.pixels(index) for index in order(positions).tolist()], positions, key, spec.views)
    grid = spec.views.global_px // spec.model.patch
    masks = block_masks(step, 2 * spec.optim.batch, grid, key, spec.objective.ibot.masks)
    return Batch(crops, masks.unflatten(0, (2, -1))[:, mine].flatten(0, 1)).to(device)


def whole_backbone(networks: nn.ModuleDict, spec: RunSpec) -> Backbone:
    """That of `networks`; where it is cut, a copy of all of it, which all processes make together."""
    backbone = networks["backbone"]
    assert isinstance(backbone, Backbone)
    if not is_cut(backbone):
        return backbone
    with torch.device("meta"):
        found = Backbone(spec.model, spec.views.global_px).requires_grad_(False)
    found.load_state_dict({name: whole(value) for name, value in backbone.state_dict().items()}, assign=True)
    return found


def described(logged: dict[str, torch.Tensor], step: int, spec: RunSpec) -> dict[str, Any]:
    """A row of metrics: what the step returned and the values that it used."""
    values = values_at(step, spec.optim, spec.objective)
    return {name: float(value) for name, value in logged.items()} | {
        "optim/lr": values.lr,
        "optim/weight_decay": values.weight_decay,
        "teacher/temperature": values.teacher_temperature,
        "teacher/momentum": values.momentum,
    }


class Pace:
    """Images per second since the last look, evaluations not counted."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self.restart()

    def restart(self) -> None:
        self._since, self._steps = time.monotonic(), 0

    def tick(self) -> None:
        self._steps += 1

    def images_per_second(self) -> float:
        speed = self._steps * self._batch / max(time.monotonic() - self._since, 1e-9)
        self.restart()
        return speed


def peak_memory_mb(device: torch.device) -> float:
    """Of the device's memory on CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
