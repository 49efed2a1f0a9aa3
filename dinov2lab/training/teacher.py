"""Student and teacher: two copies of the same networks, the second the moving average of the first."""

import copy
from functools import partial

import torch
from torch import nn

from dinov2lab.draws import Key, torch_seed
from dinov2lab.model.heads import ProjectionHead
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.run import RunSpec
from dinov2lab.training.distributed import local


def networks(spec: RunSpec) -> nn.ModuleDict:
    """`backbone`, `dino_head` and, where patches have a head of their own, `ibot_head`; their weights are not yet set."""
    backbone = Backbone(spec.model, spec.views.global_px)
    head = partial(ProjectionHead, backbone.dim, linear_init=spec.model.linear_init)
    heads = {"dino_head": head(spec.objective.dino.head)}
    if spec.objective.ibot.head is not None:
        heads["ibot_head"] = head(spec.objective.ibot.head)
    return nn.ModuleDict({"backbone": backbone, **heads})


def build_student(spec: RunSpec, key: Key) -> nn.ModuleDict:
    """The networks, their weights drawn by `key`."""
    generator = torch.Generator().manual_seed(torch_seed(key, "weights"))
    student = networks(spec)
    for network in student.values():
        assert isinstance(network, Backbone | ProjectionHead)
        network.initialise(generator)
    return student


def build_teacher(student: nn.ModuleDict) -> nn.ModuleDict:
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update(teacher: nn.ModuleDict, student: nn.ModuleDict, momentum: float) -> None:
    """teacher = momentum x teacher + (1 - momentum) x student, of each process's share."""
    ours, theirs = ([local(each) for each in networks.parameters()] for networks in (teacher, student))
    torch._foreach_lerp_(ours, theirs, 1 - momentum)
