"""What a run begins with in place of weights drawn at random, and the frozen teacher of a distillation."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinov2lab.model.vit import Backbone
from dinov2lab.model.weights import fitting, public, read
from dinov2lab.spec.model import HuggingFaceWeights, TimmWeights
from dinov2lab.spec.run import RunSpec
from dinov2lab.training.teacher import networks


class Start(NamedTuple):
    """States that fit the run's networks, by the names in them; what they lack stays as it was drawn."""

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    centres: tuple[Tensor, Tensor] | None = None


def from_public(spec: RunSpec, weights: TimmWeights | HuggingFaceWeights, root: Path) -> Start:
    """Student and teacher alike. Raises ValueError where the weights are not to be had, or not those of such a network."""
    backbone = _empty(spec)["backbone"]
    assert isinstance(backbone, Backbone)
    state = {f"backbone.{key}": value for key, value in public(weights, backbone, root).items()}
    return Start(state, state)


def from_run(spec: RunSpec, checkpoint: Path, *, heads: bool) -> Start:
    """As that checkpoint left them, the heads too where that is asked. Raises ValueError where they are of another shape."""
    content, wanted = read(checkpoint), _empty(spec)
    if heads:
        student, teacher = (fitting(content[side], wanted, str(checkpoint)) for side in ("student", "teacher"))
        return Start(student, teacher, tuple(content["centres"]))
    inner = nn.ModuleDict({"backbone": wanted["backbone"]})
    student, teacher = (
        fitting({k: v for k, v in content[side].items() if k.startswith("backbone.")}, inner, str(checkpoint))
        for side in ("student", "teacher")
    )
    return Start(student, teacher)


def frozen_teacher(run: RunSpec, checkpoint: Path) -> nn.ModuleDict:
    """The teacher of another run with its heads, as that checkpoint left it."""
    teacher = networks(run)
    teacher.load_state_dict(fitting(read(checkpoint)["teacher"], teacher, str(checkpoint)))
    return teacher.requires_grad_(False).eval()


def _empty(spec: RunSpec) -> nn.ModuleDict:
    """The run's networks without memory: their shapes."""
    with torch.device("meta"):
        return networks(spec)
