"""The terms of the DINOv2 objective and the teacher's targets (dinov2, loss/*; arXiv 2304.07193, section 4).

B images   V local crops of each   K prototypes   M masked patches of the batch   D width
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinov2lab import collectives


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """(rows, K) teacher scores to targets whose prototypes are used equally often over all rows of all processes.

    Each row of the result sums to 1. Computed in float32 whatever the scores are, and in logarithms: at low temperatures
    the exponentials of a prototype that lies far from every row would all be 0, and its share of them not a number.
    """
    targets = scores.float() / temperature
    for _ in range(iterations):
        targets -= _log_sum_over_ranks(targets.logsumexp(0, keepdim=True))
        targets -= targets.logsumexp(1, keepdim=True)
    return targets.exp_()


def _log_sum_over_ranks(logarithms: Tensor) -> Tensor:
    """The logarithm of the sum, over all processes, of what `logarithms` are those of."""
    largest = collectives.max_over_ranks(logarithms.clone())
    return largest + collectives.sum_over_ranks((logarithms - largest).exp_()).log_()


@torch.no_grad()
def centred_softmax(scores: Tensor, temperature: float, centre: Tensor) -> Tensor:
    """(rows, K) targets of the original DINO: softmax((scores - centre) / temperature)."""
    return F.softmax((scores.float() - centre) / temperature, dim=-1)


@torch.no_grad()
def updated_centre(centre: Tensor, scores: Tensor, momentum: float) -> Tensor:
    """(1, K) moving mean of the teacher's scores over the rows of all processes; it acts from the next step on."""
    rows = collectives.count_over_ranks(len(scores), scores.device)
    if rows == 0:
        return centre
    mean = collectives.sum_over_ranks(scores.float().sum(0, keepdim=True)) / rows
    return torch.lerp(mean, centre, momentum)


class Rows(NamedTuple):
    """Which of the batch's crops the student's scores are of."""

    global_crops: slice  # of 2 B
    local_crops: slice  # of V B
    all_local_crops: int  # V B


def dino_loss(
    global_scores: Tensor, local_scores: Tensor | None, targets: Tensor, temperature: float, rows: Rows | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy between teacher and student over crops of the same image: (global term, local term).

    `global_scores`, `targets`: (2 B, K), first views before second ones; each student crop meets the teacher's other one.
    `local_scores`: (V B, K), view by view, or none. The mean over all 2 + 2 V pairs of crops is their sum.
    `rows`: of which crops the scores are, where not of all; the terms are then their shares in those of the whole batch.
    """
    size = len(targets) // 2
    if rows is None:
        count = 0 if local_scores is None else len(local_scores)
        rows = Rows(slice(0, 2 * size), slice(0, count), count)
    pairs = 2 * size + 2 * rows.all_local_crops
    other = torch.arange(2 * size, device=targets.device).roll(size)[rows.global_crops]
    global_term = cross_entropy(global_scores, targets[other], temperature).sum() / pairs
    if local_scores is None:
        return global_term, global_term.new_zeros(())
    # Both teacher crops meet each local crop: their targets add up before the product.
    both = targets[:size] + targets[size:]
    image = torch.arange(rows.local_crops.start, rows.local_crops.stop, device=targets.device) % size
    local_term: Tensor = cross_entropy(local_scores, both[image], temperature).sum() / pairs
    return global_term, local_term


def cross_entropy(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """(rows,) cross-entropy of softmax(scores / temperature) with `targets`, both (rows, K); keeps its gradient alone."""
    out: Tensor = _CrossEntropy.apply(scores, targets, temperature)
    return out


class _CrossEntropy(torch.autograd.Function):
    """-sum_k t_k log softmax(s / T)_k, whose gradient by s is (sum_k t_k softmax(s / T) - t) / T."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
        logits = scores.float() / temperature
        normaliser = logits.logsumexp(-1)
        weight = targets.sum(-1)
        loss: Tensor = weight * normaliser - torch.linalg.vecdot(targets, logits)
        gradient = logits.sub_(normaliser[:, None]).exp_().mul_(weight[:, None]).sub_(targets).div_(temperature)
        ctx.save_for_backward(gradient.to(scores.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (of_scores,) = ctx.saved_tensors
        return of_scores * gradient[:, None].to(of_scores.dtype), None, None


def ibot_loss(scores: Tensor, targets: Tensor, weights: Tensor, crops: int, temperature: float) -> Tensor:
    """Cross-entropy on masked patches; each masked crop weighs the same, and the sum is over all `crops`, masked or not.

    `scores`, `targets`: (M, K). `weights`: (M,) 1 / (masked patches of the patch's crop).
    """
    loss: Tensor = (cross_entropy(scores, targets, temperature) * weights).sum() / crops
    return loss


def koleo_loss(cls_tokens: Tensor, group: int) -> Tensor:
    """Kozachenko-Leonenko spread: minus the mean log distance to the nearest neighbour within groups of `group` rows.

    `cls_tokens`: (B, D) of one view, before the head; always computed in float32 (1e-8 is zero in half precision).
    """
    with torch.autocast(cls_tokens.device.type, enabled=False):
        unit = F.normalize(cls_tokens.float(), dim=-1, eps=1e-8).view(-1, group, cls_tokens.shape[-1])
        with torch.no_grad():
            similarity = unit @ unit.transpose(1, 2)  # (groups, group, group)
            similarity.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
            nearest = similarity.argmax(-1, keepdim=True).expand_as(unit)
        distance = F.pairwise_distance(unit, unit.gather(1, nearest), p=2, eps=1e-8)
        return -torch.log(distance + 1e-8).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """Mean entropy in nats of (rows, K) distributions."""
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1).mean()
