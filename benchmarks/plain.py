"""The step as iBOT's code took it, to measure ours against: the same networks, views and terms, without what saves work.

Each crop size, and each network, by itself; attention as a whole matrix of weights; both heads on every patch token; branches
that drop path drops are computed and then set to zero; the teacher's average parameter by parameter.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from dinov2lab.spec.run import RunSpec
from dinov2lab.training import losses
from dinov2lab.training.optimizer import schedule
from dinov2lab.training.schedules import values_at
from dinov2lab.training.step import Batch, State


def plain_step(state: State, batch: Batch, spec: RunSpec) -> Tensor:
    """Update `state` by one step; its loss. For separate heads and Sinkhorn-Knopp."""
    objective, values = spec.objective, values_at(state.step, spec.optim, spec.objective)
    state.optimizer.zero_grad()
    images, masks = batch.crops[0], batch.masks
    with torch.autocast(images.device.type, torch.bfloat16, enabled=spec.optim.precision == "bf16"):
        with torch.no_grad():
            cls, patches = _tokens(state.teacher["backbone"], images, None, 0.0)
            of_cls = losses.sinkhorn(state.teacher["dino_head"](cls), values.teacher_temperature)
            of_patches = losses.sinkhorn(
                state.teacher["ibot_head"](patches.flatten(0, 1))[masks.flatten()], values.teacher_temperature
            )
        student_cls, student_patches = _tokens(state.student["backbone"], images, masks, spec.model.drop_path)
        scores = [state.student["dino_head"](student_cls)]
        for crops in batch.crops[1:]:
            for each in crops.split(len(images)):
                scores.append(
                    state.student["dino_head"](_tokens(state.student["backbone"], each, None, spec.model.drop_path)[0])
                )
        patch_scores = state.student["ibot_head"](student_patches.flatten(0, 1))[masks.flatten()]
    views = [view for crops in scores for view in crops.split(len(images) // 2)]
    pairs = [
        (target, view) for one, target in enumerate(of_cls.chunk(2)) for other, view in enumerate(views) if other != one
    ]
    dino = sum(_cross_entropy(view, target, objective.student_temperature).mean() for target, view in pairs)
    weights = (1 / masks.sum(-1, keepdim=True).clamp_min(1)).expand_as(masks)[masks]
    of_ibot = _cross_entropy(patch_scores, of_patches, objective.student_temperature)
    ibot = (of_ibot * weights).sum() / len(masks)
    koleo = sum(losses.koleo_loss(view, objective.koleo.group) for view in student_cls.chunk(2))
    total = objective.dino.weight * dino / len(pairs) + objective.ibot.weight * ibot + objective.koleo.weight * koleo
    total.backward()
    for network in state.student.values():
        nn.utils.clip_grad_norm_(network.parameters(), spec.optim.clip, foreach=False)
    schedule(state.optimizer, values)
    state.optimizer.step()
    with torch.no_grad():
        for theirs, ours in zip(state.teacher.parameters(), state.student.parameters(), strict=True):
            theirs.mul_(values.momentum).add_(ours, alpha=1 - values.momentum)
    state.step += 1
    return total.detach()


def _cross_entropy(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return -(targets * F.log_softmax(scores.float() / temperature, dim=-1)).sum(-1)


def _tokens(backbone: nn.Module, images: Tensor, masks: Tensor | None, drop_path: float) -> tuple[Tensor, Tensor]:
    """(B, D) class tokens and (B, N, D) patch tokens."""
    x = backbone.embed(images, masks)
    for block in backbone.vit.blocks:
        x = x + _dropped(block.ls1.gamma * _attention(block, x, backbone.heads), drop_path)
        hidden = F.gelu(block.mlp.fc1(block.norm2(x)))
        x = x + _dropped(block.ls2.gamma * block.mlp.fc2(hidden), drop_path)
    x = backbone.vit.norm(x)
    return x[:, 0], x[:, 1 + backbone.registers :]


def _attention(block: Block, x: Tensor, heads: int) -> Tensor:
    b, t, d = x.shape
    q, k, v = block.attn.qkv(block.norm1(x)).view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4)  # (B, h, T, D / h)
    weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
    return block.attn.proj((weights @ v).transpose(1, 2).reshape(b, t, d))


def _dropped(branch: Tensor, share: float) -> Tensor:
    if not share:
        return branch
    return branch * (torch.rand(len(branch), 1, 1, device=branch.device) >= share) / (1 - share)
