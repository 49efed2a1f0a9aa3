"""One training step: views in, an updated student and teacher out.

B images of the batch   V local crops of each   M masked patches, or all   D width   K prototypes
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dinov2lab.draws import Key, bits
from dinov2lab.model.blocks import Kept
from dinov2lab.model.vit import Backbone, Tokens
from dinov2lab.spec.run import ObjectiveSpec, RunSpec
from dinov2lab.training import losses
from dinov2lab.training import optimizer as optimizers
from dinov2lab.training import teacher as teachers
from dinov2lab.training.schedules import Values, values_at
from dinov2lab.training.start import Start


class Diverged(RuntimeError):
    """The loss or a gradient was not finite; nothing was updated."""


class Batch(NamedTuple):
    crops: tuple[Tensor, ...]  # global (2 B, 3, H, W), then local (V B, 3, h, w) where there are any
    masks: Tensor  # (2 B, N) bool


class Centres(NamedTuple):
    """Moving means of the teacher's scores, for centering by EMA; Sinkhorn-Knopp keeps none."""

    cls: Tensor  # (1, K)
    patches: Tensor  # (1, K)


class State:
    """All that a run carries from step to step, and all that a checkpoint holds."""

    def __init__(
        self,
        spec: RunSpec,
        key: Key,
        device: torch.device,
        start: Start | None = None,
        frozen: nn.ModuleDict | None = None,
    ) -> None:
        """`start`: in place of drawn weights. `frozen`: a teacher that never changes, and is part of no checkpoint."""
        self.step = 0
        student = teachers.build_student(spec, key)
        teacher = teachers.build_teacher(student)
        if start:
            student.load_state_dict(start.student, strict=False)  # fitted already; heads may be left out
            teacher.load_state_dict(start.teacher, strict=False)
        self.student, self.teacher = student.to(device), teacher.to(device)
        self.frozen = frozen.to(device) if frozen else None
        self.optimizer = optimizers.build(dict(self.student.items()), spec.optim)
        objective = spec.objective
        self.centres = Centres(
            torch.zeros(1, objective.dino.head.prototypes, device=device),
            torch.zeros(1, objective.patch_head.prototypes, device=device),
        )
        if start and start.centres:
            self.centres = Centres(*(centre.to(device) for centre in start.centres))


def train_step(state: State, batch: Batch, spec: RunSpec, key: Key) -> dict[str, Tensor]:
    """Update `state` by one step and return what there is to log, as detached scalars. Raises Diverged."""
    values = values_at(state.step, spec.optim, spec.objective)
    device_type = batch.crops[0].device.type
    with torch.autocast(device_type, torch.bfloat16, enabled=spec.optim.precision == "bf16"):
        targets, centres = teacher_targets(state, batch, spec.objective, values)
        terms, monitors = student_losses(state.student, batch, targets, spec, key, state.step)
    total = torch.stack([weight * value for weight, value in terms.values()]).sum()
    if not torch.isfinite(total):
        raise Diverged(f"the loss is {total.item()} at step {state.step}")
    state.optimizer.zero_grad(set_to_none=True)
    total.backward()
    norms = [nn.utils.clip_grad_norm_(module.parameters(), spec.optim.clip) for module in state.student.values()]
    # The norm of a head that no term uses is a zero on the CPU.
    if not torch.stack([norm.to(total.device) for norm in norms]).isfinite().all():
        raise Diverged(f"a gradient is not finite at step {state.step}")
    optimizers.schedule(state.optimizer, values)
    state.optimizer.step()
    teachers.update(state.teacher, state.student, values.momentum)
    state.centres = centres
    state.step += 1
    logged = {f"loss/{name}": value.detach() for name, (_, value) in terms.items()}
    return {"loss/total": total.detach(), **logged, **monitors, "gradient/norm": norms[0]}


class Targets(NamedTuple):
    cls: Tensor  # (2 B, K)
    patches: Tensor | None  # (M, K)


@torch.no_grad()
def teacher_targets(state: State, batch: Batch, objective: ObjectiveSpec, values: Values) -> tuple[Targets, Centres]:
    """What the teacher sees in the whole global crops, centred; and the centres from the next step on."""
    teacher = state.teacher if state.frozen is None else state.frozen
    tokens = teacher["backbone"]([batch.crops[0]])[0]
    cls_scores = teacher["dino_head"](tokens.cls)
    cls, cls_centre = _centred(cls_scores, state.centres.cls, objective, values)
    if not objective.ibot.weight:
        return Targets(cls, None), state.centres._replace(cls=cls_centre)
    patch_scores = _patch_head(teacher)(tokens.patches[_compared(batch, objective)])
    patches, patch_centre = _centred(patch_scores, state.centres.patches, objective, values)
    return Targets(cls, patches), Centres(cls_centre, patch_centre)


def _compared(batch: Batch, objective: ObjectiveSpec) -> Tensor:
    """(2 B, N) bool: the patches whose tokens student and teacher are compared in; M of them."""
    return batch.masks if objective.ibot.tokens == "masked" else torch.ones_like(batch.masks)


def _centred(scores: Tensor, centre: Tensor, objective: ObjectiveSpec, values: Values) -> tuple[Tensor, Tensor]:
    """(targets, the centre from the next step on)."""
    if objective.teacher.centering == "sinkhorn":
        return losses.sinkhorn(scores, values.teacher_temperature), centre
    targets = losses.centred_softmax(scores, values.teacher_temperature, centre)
    return targets, losses.updated_centre(centre, scores, objective.teacher.centre_momentum)


def _patch_head(networks: nn.ModuleDict) -> nn.Module:
    return networks["ibot_head"] if "ibot_head" in networks else networks["dino_head"]


def student_losses(
    student: nn.ModuleDict, batch: Batch, targets: Targets, spec: RunSpec, key: Key, step: int
) -> tuple[dict[str, tuple[float, Tensor]], dict[str, Tensor]]:
    """(weight, value) of each term of the loss, and what else is worth a look."""
    objective = spec.objective
    backbone = student["backbone"]
    assert isinstance(backbone, Backbone)
    masks = batch.masks if objective.ibot.weight else None
    kept = kept_crops([len(crops) for crops in batch.crops], backbone.depth, spec.model.drop_path, key, step)
    tokens: list[Tokens] = backbone(batch.crops, masks, kept)
    scores = student["dino_head"](torch.cat([part.cls for part in tokens]))
    size = len(batch.crops[0])
    global_scores, local_scores = scores[:size], scores[size:] if len(tokens) > 1 else None
    terms: dict[str, tuple[float, Tensor]] = {}
    monitors = {
        "teacher/entropy": losses.entropy(targets.cls),
        "student/entropy": losses.entropy((global_scores.detach().float() / objective.student_temperature).softmax(-1)),
    }
    temperature = objective.student_temperature
    if objective.dino.weight:
        global_term, local_term = losses.dino_loss(global_scores, local_scores, targets.cls, temperature)
        terms["dino_global"] = objective.dino.weight, global_term
        terms["dino_local"] = objective.dino.weight, local_term
    if objective.koleo.weight:
        spread = [losses.koleo_loss(view, objective.koleo.group) for view in tokens[0].cls.chunk(2)]
        terms["koleo"] = objective.koleo.weight, torch.stack(spread).sum()
    if targets.patches is not None:
        compared = _compared(batch, objective)
        patch_scores = _patch_head(student)(tokens[0].patches[compared])
        weights = (1 / compared.sum(-1, keepdim=True).clamp_min(1)).expand_as(compared)[compared]
        terms["ibot"] = (
            objective.ibot.weight,
            losses.ibot_loss(patch_scores, targets.patches, weights, size, temperature),
        )
    if not terms:
        raise ValueError("objective: every weight is 0, there is nothing to learn from")
    return terms, monitors


def kept_crops(
    sizes: Sequence[int], depth: int, drop_path: float, key: Key, step: int
) -> list[tuple[Kept, Kept]] | None:
    """For each block, the crops whose attention and whose MLP is computed: an exact share, drawn by (key, step)."""
    if not drop_path:
        return None

    def draw(purpose: str) -> Kept:
        crops = []
        for group, size in enumerate(sizes):
            words = bits(key, f"{purpose}/{group}", [step], size)[0]
            count = max(int(size * (1 - drop_path)), 1)
            crops.append(torch.from_numpy(np.sort(np.argsort(words, kind="stable")[:count])))
        return Kept(tuple(crops), tuple(size / len(kept) for size, kept in zip(sizes, crops, strict=True)))

    return [(draw(f"drop/{block}/attention"), draw(f"drop/{block}/mlp")) for block in range(depth)]
