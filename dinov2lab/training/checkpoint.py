"""All that a run carries from step to step, written atomically; loading never runs code from the file (weights_only)."""

from pathlib import Path

import torch
from torch import nn

from dinov2lab import collectives
from dinov2lab.model.weights import read as load
from dinov2lab.store import atomic
from dinov2lab.training.step import Centres, State


def save(state: State, path: Path, seconds: float) -> None:
    """`seconds`: spent in training up to this step, over all resumes. Of several processes the first one writes."""
    content = {
        "step": state.step,
        "looks": state.looks,
        "seconds": seconds,
        "student": state.student.state_dict(),
        "teacher": state.teacher.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "centres": tuple(state.centres),
    }
    if collectives.rank() == 0:
        atomic.write(path, lambda temporary: torch.save(content, temporary))


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
        state.student.load_state_dict(content["student"])
        state.teacher.load_state_dict(content["teacher"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.centres = Centres(*(centre.to(state.centres.cls.device) for centre in content["centres"]))
        state.step = content["step"]
        state.looks = tuple(content.get("looks", ()))
        return float(content["seconds"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a checkpoint of this run ({_reason(error)}); delete it to start the run anew"
        ) from error


def save_backbone(backbone: nn.Module, path: Path) -> None:
    atomic.write(path, lambda temporary: torch.save(backbone.state_dict(), temporary))


def _reason(error: Exception) -> str:
    """The first line of what torch says at length."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
