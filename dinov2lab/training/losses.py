"""The terms of the DINOv2 objective and the teacher's targets (dinov2, loss/*; arXiv 2304.07193, section 4).

B images   V local crops of each   K prototypes   M masked patches of the batch   D width
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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


def dino_loss(
    global_scores: Tensor, local_scores: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy between teacher and student over crops of the same image: (global term, local term).

    `global_scores`, `targets`: (2 B, K), first views before second ones; each student crop meets the teacher's other one.
    `local_scores`: (V B, K), view by view, or none. The mean over all 2 + 2 V pairs of crops is their sum.
    """
    first, second = targets.chunk(2)  # (B, K)
    size = len(first)
    locals_ = 0 if local_scores is None else len(local_scores) // size
    pairs = 2 + 2 * locals_
    swapped = torch.cat([second, first])
    global_term = -(swapped * F.log_softmax(global_scores.float() / temperature, dim=-1)).sum() / (size * pairs)
    if local_scores is None:
        return global_term, global_term.new_zeros(())
    # Both teacher crops meet each local crop: their targets add up before the product.
    log_probabilities = F.log_softmax(local_scores.float() / temperature, dim=-1).view(locals_, size, -1)
    local_term = -((first + second) * log_probabilities).sum() / (size * pairs)
    return global_term, local_term


def ibot_loss(scores: Tensor, targets: Tensor, weights: Tensor, crops: int, temperature: float) -> Tensor:
    """Cross-entropy on masked patches; each masked crop weighs the same, and the sum is over all `crops`, masked or not.

    `scores`, `targets`: (M, K). `weights`: (M,) 1 / (masked patches of the patch's crop).
    """
    per_patch = -(targets * F.log_softmax(scores.float() / temperature, dim=-1)).sum(-1)  # (M,)
    return (per_patch * weights).sum() / crops


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
