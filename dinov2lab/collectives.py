"""What more than one process needs anywhere. With a single process every function is the identity."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

MESSAGE = 64 << 20  # bytes that are sent together


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


def any_over_ranks(*flags: bool) -> tuple[bool, ...]:
    """Of each flag, whether any process has it up; so that all of them do the same."""
    if world_size() == 1:
        return flags
    return tuple(max_over_ranks(torch.tensor([int(flag) for flag in flags])).bool().tolist())


def of_first_rank(value: int) -> int:
    return int(sum_over_ranks(torch.tensor(value if rank() == 0 else 0)))


def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace each of `tensors` by its mean over all processes, which hold the same ones in the same order."""
    if world_size() == 1:
        return
    for together in _messages(tensors):
        message = torch.cat([tensor.flatten() for tensor in together])
        sum_over_ranks(message).div_(world_size())
        for tensor, mean in zip(together, message.split([tensor.numel() for tensor in together]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def _messages(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one type, of about MESSAGE bytes: few messages, and no second copy of all gradients."""
    together: list[Tensor] = []
    for tensor in tensors:
        if together and (
            tensor.dtype != together[0].dtype or sum(each.nbytes for each in together) + tensor.nbytes > MESSAGE
        ):
            yield together
            together = []
        together.append(tensor)
    if together:
        yield together
