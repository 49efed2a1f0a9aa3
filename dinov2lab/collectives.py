"""What more than one process needs anywhere. With a single process every function is the identity."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """`tensor` summed over all processes, in place where there are several."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def count_over_ranks(local: int, device: torch.device) -> int:
    """The sum of a number that differs between processes, such as that of masked tokens."""
    if world_size() == 1:
        return local
    return int(sum_over_ranks(torch.tensor(local, device=device)).item())
