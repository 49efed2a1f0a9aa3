"""All that a run carries from step to step, written atomically; loading never runs code from the file.

One file of torch's (weights_only), or where the weights are cut among processes a file of each and an index of them, see
model/shards.py. Either goes on with any number of processes, whether they cut the weights or not.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov2lab import collectives
from dinov2lab.model import shards
from dinov2lab.model.weights import read as load
from dinov2lab.store import atomic
from dinov2lab.training.distributed import cut_like, local
from dinov2lab.training.step import Centres, State


class Writer:
    """Writes checkpoints while training goes on: what a step has left is copied, and a thread writes the copy.

    One at a time: the next waits for the last. Of several processes the first writes; of weights that are cut each one
    writes its share, and all wait for that.
    """

    def __init__(self, path: Path, kept: int, thread: ThreadPoolExecutor) -> None:
        self._path, self._kept, self._thread = path, kept, thread
        self._last: Future[None] | None = None

    def save(self, state: State, seconds: float) -> None:
        """`seconds`: spent in training up to this step, over all resumes. Raises OSError where the last one failed."""
        self.finish()
        if state.cut:
            _save_shards(state, self._path, seconds)
        elif collectives.rank() == 0:
            self._last = self._thread.submit(_write, _copied(_content(state, seconds)), self._path, self._kept)

    def finish(self) -> None:
        """Wait for what is being written. Raises OSError where that fails."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


@contextmanager
def writing(path: Path, kept: int = 1) -> Iterator[Writer]:
    """The last `kept` checkpoints stay, the newest at `path`; where they are several each has its step's name, too."""
    with ThreadPoolExecutor(1, "checkpoint") as thread:  # whatever ends this, what is being written is waited for
        writer = Writer(path, kept, thread)
        yield writer
        writer.finish()


def _content(state: State, seconds: float) -> dict[str, Any]:
    return {
        "step": state.step,
        "looks": state.looks,
        "seconds": seconds,
        "student": state.student.state_dict(),
        "teacher": state.teacher.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "centres": tuple(state.centres),
    }


def _copied(value: Any) -> Any:
    """In the memory of the processor, with no part that a later step would change."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return type(value)(map(_copied, value)) if isinstance(value, list | tuple) else value


def _write(content: dict[str, Any], path: Path, kept: int) -> None:
    atomic.write(path, lambda temporary: torch.save(content, temporary))
    shards.forget(path)
    if kept > 1:
        named = path.with_stem(f"{path.stem}-{content['step']:08}")
        named.unlink(missing_ok=True)
        os.link(path, named)  # the same file: only the older ones take space
    for older in sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"))[: -kept if kept > 1 else None]:
        older.unlink()


def _save_shards(state: State, path: Path, seconds: float) -> None:
    rank, of = collectives.rank(), collectives.world_size()
    names = [shards.name_of(path, state.step, each, of) for each in range(of)]
    sides = {"student": state.student, "teacher": state.teacher}
    tensors = {f"{side}/{name}": value for side, each in sides.items() for name, value in each.state_dict().items()}
    optimizer = state.optimizer.state_dict()
    tensors |= {f"optimizer/{i}/{name}": v for i, each in optimizer["state"].items() for name, v in each.items()}
    mine = {name: local(value) for name, value in tensors.items() if rank == 0 or local(value) is not value}
    centres = {f"centres/{name}": value for name, value in state.centres._asdict().items()}
    shards.write(mine | (centres if rank == 0 else {}), path.with_name(names[rank]))
    collectives.any_over_ranks(True)  # all are written
    if rank == 0:
        values = {"step": state.step, "looks": state.looks, "seconds": seconds, "groups": optimizer["param_groups"]}
        shards.write_index(path, names, values)
        shards.forget(path, names)


def restore(state: State, path: Path) -> float:
    """Put `state` where the checkpoint left it and return the seconds spent; where there is none, leave it at step 0.

    Raises ValueError, naming the file, where it cannot be read or belongs to another network.
    """
    seconds = _restore(state, path) if path.exists() else 0.0
    if collectives.of_first_rank(state.step) != state.step:
        raise ValueError(f"{path}: this process finds step {state.step} there, and the first one another")
    return seconds


def _restore(state: State, path: Path) -> float:
    content = load(path)
    try:
        for networks, saved in ((state.student, content["student"]), (state.teacher, content["teacher"])):
            networks.load_state_dict(_cut(saved, networks.state_dict()))
        state.optimizer.load_state_dict(content["optimizer"])
        state.centres = Centres(*(centre.to(state.centres.cls.device) for centre in content["centres"]))
        state.step = content["step"]
        state.looks = tuple(content.get("looks", ()))
        return float(content["seconds"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a checkpoint of this run ({_reason(error)}); delete it to start the run anew"
        ) from error


def _cut(saved: Mapping[str, Tensor], patterns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: cut_like(value, patterns[name]) if name in patterns else value for name, value in saved.items()}


def save_backbone(backbone: nn.Module, path: Path) -> None:
    atomic.write(path, lambda temporary: torch.save(backbone.state_dict(), temporary))


def _reason(error: Exception) -> str:
    """The first line of what torch says at length."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
