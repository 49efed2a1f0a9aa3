"""One training step: views in, an updated student and teacher out.

B images of the batch   V local crops of each   M masked patches, or all   D width   K prototypes
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dinov2lab import collectives
from dinov2lab.draws import Key, bits
from dinov2lab.model.blocks import Kept
from dinov2lab.model.vit import Backbone, Tokens
from dinov2lab.spec.resources import Recompute, Shard
from dinov2lab.spec.run import ObjectiveSpec, RunSpec
from dinov2lab.training import losses
from dinov2lab.training import optimizer as optimizers
from dinov2lab.training import teacher as teachers
from dinov2lab.training.distributed import clip, cut
from dinov2lab.training.parts import WHOLE, Part, Parts, accumulate, kept_of, of_this_process
from dinov2lab.training.schedules import Values, values_at
from dinov2lab.training.start import Start

_USE = "student/use"  # (K,) share of each prototype over the batch; parts of it add up, unlike their entropies


class Diverged(RuntimeError):
    """The loss or a gradient was not finite; nothing was updated."""


class Batch(NamedTuple):
    crops: tuple[Tensor, ...]  # global (2 B, 3, H, W), then local (V B, 3, h, w) where there are any
    masks: Tensor  # (2 B, N) bool

    def to(self, device: torch.device) -> "Batch":
        return Batch(tuple(crop.to(device, non_blocking=True) for crop in self.crops), self.masks.to(device))


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
        shard: Shard = "none",
    ) -> None:
        """`start`: in place of drawn weights. `frozen`: a teacher that never changes, and is part of no checkpoint.

        `shard`: what is cut among the processes, where there are several.
        """
        self.step = 0
        self.looks: tuple[int, ...] = ()  # of collapse.py, the latest
        student = teachers.build_student(spec, key)
        teacher = teachers.build_teacher(student)
        if start:
            student.load_state_dict(start.student, strict=False)  # fitted already; heads may be left out
            teacher.load_state_dict(start.teacher, strict=False)
        self.student, self.teacher = student.to(device), teacher.to(device)
        self.frozen = frozen.to(device) if frozen else None
        self.cut = shard == "weights" and collectives.world_size() > 1
        for networks in (self.student, self.teacher, self.frozen) if self.cut else ():
            if networks is not None:
                cut(networks, device, bf16=spec.optim.precision == "bf16")
        self.optimizer = optimizers.build(dict(self.student.items()), spec.optim)
        objective = spec.objective
        self.centres = Centres(
            torch.zeros(1, objective.dino.head.prototypes, device=device),
            torch.zeros(1, objective.patch_head.prototypes, device=device),
        )
        if start and start.centres:
            self.centres = Centres(*(centre.to(device) for centre in start.centres))


def train_step(state: State, batch: Batch, spec: RunSpec, key: Key, parts: Parts = WHOLE) -> dict[str, Tensor]:
    """Update `state` by one step and return what there is to log, as detached scalars. Raises Diverged.

    `batch`: of this process's images. All processes of a run return the same, end with the same state, or raise together.
    """
    values = values_at(state.step, spec.optim, spec.objective)
    state.optimizer.zero_grad()
    targets, centres = teacher_targets(state, batch, spec, values, parts)
    logged = add_gradients(state.student, batch, targets, spec, key, state.step, parts)
    logged["teacher/entropy"] = losses.entropy(targets.cls)
    gradients = [each.grad for each in state.student.parameters() if each.grad is not None]
    collectives.average_over_ranks([*logged.values(), *([] if state.cut else gradients)])  # cut ones are means already
    total = logged["loss/total"]
    if not torch.isfinite(total):
        raise Diverged(f"the loss is {total.item()} at step {state.step}")
    norms = [clip(module, spec.optim.clip) for module in state.student.values()]
    # The norm of a head that no term uses is a zero on the CPU.
    if not torch.stack([norm.to(total.device) for norm in norms]).isfinite().all():
        raise Diverged(f"a gradient is not finite at step {state.step}")
    optimizers.schedule(state.optimizer, values)
    state.optimizer.step()
    teachers.update(state.teacher, state.student, values.momentum)
    state.centres = centres
    state.step += 1
    used = logged.pop(_USE)
    return {**logged, "student/spread": losses.entropy(used[None]), "gradient/norm": norms[0]}


def _precision(batch: Batch, spec: RunSpec) -> torch.autocast:
    return torch.autocast(batch.crops[0].device.type, torch.bfloat16, enabled=spec.optim.precision == "bf16")


class Targets(NamedTuple):
    cls: Tensor  # (2 B, K)
    patches: Tensor | None  # (M, K)


@torch.no_grad()
def teacher_targets(state: State, batch: Batch, spec: RunSpec, values: Values, parts: Parts) -> tuple[Targets, Centres]:
    """What the teacher sees in the whole global crops, centred over all of them; and the centres from the next step on."""
    objective, teacher = spec.objective, state.teacher if state.frozen is None else state.frozen

    @torch.no_grad()
    def scores(part: Part) -> tuple[Tensor, Tensor | None]:
        rows = part.rows(len(batch.crops[0]))
        with _precision(batch, spec):
            tokens = teacher["backbone"]([batch.crops[0][rows]])[0]
            hidden = tokens.patches[_compared(batch.masks[rows], objective)] if objective.ibot.weight else None
            of_patches = None if hidden is None else _patch_head(teacher)(hidden)
            return teacher["dino_head"](tokens.cls), of_patches

    of_cls, of_patches = zip(*parts.map(scores), strict=True)
    cls, cls_centre = _centred(torch.cat(of_cls), state.centres.cls, objective, values)
    if not objective.ibot.weight:
        return Targets(cls, None), state.centres._replace(cls=cls_centre)
    patches, patch_centre = _centred(torch.cat(of_patches), state.centres.patches, objective, values)
    return Targets(cls, patches), Centres(cls_centre, patch_centre)


def _compared(masks: Tensor, objective: ObjectiveSpec) -> Tensor:
    """(crops, N) bool: the patches whose tokens student and teacher are compared in; M of them in the batch."""
    return masks if objective.ibot.tokens == "masked" else torch.ones_like(masks)


def _centred(scores: Tensor, centre: Tensor, objective: ObjectiveSpec, values: Values) -> tuple[Tensor, Tensor]:
    """(targets, the centre from the next step on)."""
    if objective.teacher.centering == "sinkhorn":
        return losses.sinkhorn(scores, values.teacher_temperature), centre
    targets = losses.centred_softmax(scores, values.teacher_temperature, centre)
    return targets, losses.updated_centre(centre, scores, objective.teacher.centre_momentum)


def _patch_head(networks: nn.ModuleDict) -> nn.Module:
    return networks["ibot_head"] if "ibot_head" in networks else networks["dino_head"]


def add_gradients(
    student: nn.ModuleDict, batch: Batch, targets: Targets, spec: RunSpec, key: Key, step: int, parts: Parts
) -> dict[str, Tensor]:
    """Add the gradients of the objective to those of `student`; what there is to log of it."""
    backbone = student["backbone"]
    assert isinstance(backbone, Backbone)
    sizes = [len(crops) for crops in batch.crops]
    kept = kept_crops(sizes, backbone.depth, spec.model.drop_path, key, step, of_this_process())
    parameters = list(student.parameters())

    def compute(part: Part) -> tuple[dict[str, Tensor], Sequence[Tensor | None]]:
        with _precision(batch, spec):
            of_part = kept_of(part, kept, sizes)
            terms, monitors = student_losses(student, batch, targets, spec, part, of_part, parts.recompute)
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        logged = {f"loss/{name}": value.detach() for name, (_, value) in terms.items()}
        logged = {"loss/total": total.detach(), **logged, **monitors}
        if parts.side_by_side > 1:
            return logged, torch.autograd.grad(total, parameters, allow_unused=True)
        total.backward()
        return logged, ()

    sums: dict[str, Tensor] = {}
    for logged, gradients in parts.map(compute):
        accumulate(parameters, gradients or [None] * len(parameters))
        sums = {name: value + sums[name] if sums else value for name, value in logged.items()}
    return sums


def student_losses(
    student: nn.ModuleDict,
    batch: Batch,
    targets: Targets,
    spec: RunSpec,
    part: Part,
    kept: Sequence[tuple[Kept, Kept]] | None,
    recompute: Recompute,
) -> tuple[dict[str, tuple[float, Tensor]], dict[str, Tensor]]:
    """(weight, value) of each term of the loss, and what else is worth a look: the share of one part in each."""
    objective, temperature = spec.objective, spec.objective.student_temperature
    crops = [images for images in (every[part.rows(len(every))] for every in batch.crops) if len(images)]
    rows = part.rows(len(batch.masks))
    masks = batch.masks[rows]
    tokens: list[Tokens] = student["backbone"](crops, masks if objective.ibot.weight else None, kept, recompute)
    scores = student["dino_head"](torch.cat([of_size.cls for of_size in tokens]))
    global_scores, local_scores = scores[: len(masks)], scores[len(masks) :] if len(tokens) > 1 else None
    share = len(masks) / len(batch.masks)
    terms: dict[str, tuple[float, Tensor]] = {}
    probabilities = (global_scores.detach().float() / temperature).softmax(-1)
    monitors = {"student/entropy": losses.entropy(probabilities) * share, _USE: probabilities.mean(0) * share}
    if objective.dino.weight:
        locals_ = len(batch.crops[1]) if len(batch.crops) > 1 else 0
        of_part = losses.Rows(rows, part.rows(locals_), locals_)
        global_term, local_term = losses.dino_loss(global_scores, local_scores, targets.cls, temperature, of_part)
        terms["dino_global"] = objective.dino.weight, global_term
        terms["dino_local"] = objective.dino.weight, local_term
    if objective.koleo.weight:  # of both views, whose groups stand one behind the other
        spread = 2 * share * losses.koleo_loss(tokens[0].cls, objective.koleo.group)
        terms["koleo"] = objective.koleo.weight, spread
    if targets.patches is not None:
        before = int(_compared(batch.masks[: rows.start], objective).sum())
        compared = _compared(masks, objective)
        patch_scores = _patch_head(student)(tokens[0].patches[compared])
        weights = (1 / compared.sum(-1, keepdim=True).clamp_min(1)).expand_as(compared)[compared]
        patches = targets.patches[before : before + len(patch_scores)]
        terms["ibot"] = (
            objective.ibot.weight,
            losses.ibot_loss(patch_scores, patches, weights, len(batch.masks), temperature),
        )
    if not terms:
        raise ValueError("objective: every weight is 0, there is nothing to learn from")
    return terms, monitors


def kept_crops(
    sizes: Sequence[int],
    depth: int,
    drop_path: float,
    key: Key,
    step: int,
    process: Part = Part(),
) -> list[tuple[Kept, Kept]] | None:
    """For each block, the crops whose attention and whose MLP is computed: an exact share of the batch, drawn by (key, step).

    `sizes`: crops of each size that this process holds, of as many images as any other.
    """
    if not drop_path:
        return None

    images = sizes[0] // 2

    def draw(purpose: str) -> Kept:
        crops, scales = [], []
        for group, size in enumerate(size * process.of for size in sizes):
            words = bits(key, f"{purpose}/{group}", [step], size)[0]
            count = max(int(size * (1 - drop_path)), 1)
            kept = np.sort(np.argsort(words, kind="stable")[:count])
            crops.append(torch.from_numpy(process.crops(kept, images * process.of)))
            scales.append(size / count)
        return Kept(tuple(crops), tuple(scales))

    return [(draw(f"drop/{block}/attention"), draw(f"drop/{block}/mlp")) for block in range(depth)]
