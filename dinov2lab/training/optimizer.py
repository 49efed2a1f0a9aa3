"""AdamW over groups of parameters that share their factors (dinov2, utils/param_groups.py)."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dinov2lab.model.vit import Backbone
from dinov2lab.spec.run import OptimSpec
from dinov2lab.training.schedules import Values

Part = Literal["backbone", "head", "prototypes"]  # what may be frozen at first, each for itself
PARTS: tuple[Part, ...] = get_args(Part)


def factors(module: str, name: str, depth: int, optim: OptimSpec) -> tuple[float, bool, Part]:
    """(learning-rate factor, is weight-decayed, part) of one parameter.

    Layer decay: tokens and patch embedding lie below the first block; final norm and heads are not scaled down.
    Biases, norms and LayerScale are not decayed; class, position and mask tokens are.
    """
    decayed = not (name.endswith(("bias", "gamma")) or "norm" in name)
    if module != "backbone":
        return 1.0, decayed, "prototypes" if name.startswith("prototype") else "head"
    parts = name.split(".")
    layer = depth + 1
    if "blocks" in parts:
        layer = int(parts[parts.index("blocks") + 1]) + 1
    elif "patch_embed" in parts or name.endswith(("cls_token", "pos_embed", "mask_token")):
        layer = 0
    factor = optim.layer_decay ** (depth + 1 - layer)
    return factor * (optim.patch_embed_lr if "patch_embed" in parts else 1.0), decayed, "backbone"


def build(student: Mapping[str, nn.Module], optim: OptimSpec) -> torch.optim.AdamW:
    backbone = student["backbone"]
    assert isinstance(backbone, Backbone)
    groups: dict[tuple[float, bool, Part], list[Tensor]] = {}
    for module_name, module in student.items():
        for name, parameter in module.named_parameters():
            groups.setdefault(factors(module_name, name, backbone.depth, optim), []).append(parameter)
    listed = [
        {"params": parameters, "factor": factor, "decayed": decayed, **{each: each == part for each in PARTS}}
        for (factor, decayed, part), parameters in groups.items()
    ]
    return torch.optim.AdamW(listed, lr=0.0, betas=optim.betas, fused=True)


def schedule(optimizer: torch.optim.AdamW, values: Values) -> None:
    """Set what this step's update uses."""
    for group in optimizer.param_groups:
        frozen = (values.last_layer_frozen and group["prototypes"]) or (values.backbone_frozen and group["backbone"])
        group["lr"] = 0.0 if frozen else values.lr * group["factor"]
        group["weight_decay"] = values.weight_decay if group["decayed"] else 0.0
