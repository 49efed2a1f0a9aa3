"""AdamW over groups of parameters that share their factors (dinov2, utils/param_groups.py)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from dinov2lab.model.vit import Backbone
from dinov2lab.spec.run import OptimSpec
from dinov2lab.training.distributed import cut_like, local
from dinov2lab.training.schedules import Values

Part = Literal["backbone", "head", "prototypes"]  # what may be frozen at first, each for itself
PARTS: tuple[Part, ...] = get_args(Part)
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names
EPSILON = 1e-8


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


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), by torch's fused kernel.

    torch's own class imports the compiler, to switch it off: two seconds and 150 MB of every process that trains.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        """`groups`: each with its `params`, and before a step with `lr` and `weight_decay`."""
        self.param_groups, self._betas = groups, betas
        self.state: dict[Tensor, dict[str, Tensor]] = {}  # of each parameter that had a gradient

    @property
    def _parameters(self) -> list[Tensor]:
        return [each for group in self.param_groups for each in group["params"]]

    def zero_grad(self) -> None:
        for each in self._parameters:
            each.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            moved = [each for each in group["params"] if each.grad is not None]
            for each in moved:
                if each not in self.state:
                    count = torch.zeros((), dtype=torch.float32, device=each.device)
                    self.state[each] = {"step": count, **{name: torch.zeros_like(each) for name in MOMENTS}}
            states = [self.state[each] for each in moved]
            mean, square = ([local(state[name]) for state in states] for name in MOMENTS)
            adamw(
                [local(each) for each in moved],
                [local(each.grad) for each in moved],
                mean,
                square,
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=EPSILON,
            )

    def state_dict(self) -> dict[str, Any]:
        """By the number of the parameter, as torch's optimisers have it. Rates and decays are the schedule's."""
        numbered = enumerate(self._parameters)
        state = {number: self.state[each] for number, each in numbered if each in self.state}
        numbers = iter(range(len(self._parameters)))
        groups = [{"params": [next(numbers) for _ in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Whole moments, cut as the parameters are. Raises ValueError where they are those of others."""
        sizes = [[len(group["params"]) for group in groups] for groups in (saved["param_groups"], self.param_groups)]
        if sizes[0] != sizes[1]:
            raise ValueError("its moments are those of other groups of parameters")
        parameters, state = self._parameters, {}
        for number, moments in saved["state"].items():
            each = parameters[number]
            if any(moments[name].shape != each.shape for name in MOMENTS):
                raise ValueError(f"its moments of parameter {number} have another shape")
            state[each] = {name: cut_like(moments[name], each).to(each.device) for name in MOMENTS}
            state[each]["step"] = moments["step"].to(each.device)
        self.state = state


def build(student: Mapping[str, nn.Module], optim: OptimSpec) -> AdamW:
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
    return AdamW(listed, optim.betas)


def schedule(optimizer: AdamW, values: Values) -> None:
    """Set what this step's update uses."""
    for group in optimizer.param_groups:
        frozen = (values.last_layer_frozen and group["prototypes"]) or (values.backbone_frozen and group["backbone"])
        group["lr"] = 0.0 if frozen else values.lr * group["factor"]
        group["weight_decay"] = values.weight_decay if group["decayed"] else 0.0
