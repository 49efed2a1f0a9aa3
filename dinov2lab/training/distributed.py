"""The processes that train one run: where they meet, and the group that collectives reach.

Each process holds the images of its part of every batch, and all of the weights or, where these are cut, its share of them;
gradients and metrics are averaged.
"""

import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinov2lab.model.vit import Backbone

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

LOOPBACK = "127.0.0.1"
COMING = timedelta(minutes=15)  # between the first process that is there and the last one
FOR_EVER = timedelta(days=365)  # the others wait while the first one evaluates; who dies is noticed otherwise


class Place(NamedTuple):
    """Of a process among those that train together."""

    rank: int = 0
    of: int = 1
    here: int = 0  # its number on its machine: of the GPUs that it sees, this one is its own
    host: str = LOOPBACK  # of the first one; here where all are on one machine
    port: int = 0  # of the first one's store; 0: any


class Meeting:
    """A store of words that the first process keeps, through which the others hear what to do and say why they cannot."""

    def __init__(self, place: Place) -> None:
        self.place = place
        listening = _listening(place) if place.rank == 0 else None
        self._store = dist.TCPStore(  # type: ignore[attr-defined]  # written in C++
            place.host,
            listening.getsockname()[1] if listening else place.port,
            is_master=listening is not None,
            wait_for_workers=False,
            timeout=COMING,
            master_listen_fd=listening.detach() if listening else None,
        )
        self._store.set_timeout(FOR_EVER)

    @property
    def port(self) -> int:
        return int(self._store.port)

    def tell(self, key: str, words: str) -> None:
        self._store.set(key, words)

    def hear(self, key: str) -> str:
        """Wait until somebody tells it. Raises RuntimeError where the first process is gone."""
        return bytes(self._store.get(key)).decode()

    def told(self, key: str) -> str | None:
        return self.hear(key) if self._store.check([key]) else None

    @contextmanager
    def joined(self, turn: int, device: torch.device) -> Iterator[None]:
        """Inside, collectives reach all processes of the meeting: through NCCL on CUDA, and gloo on the CPU."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.place.host == LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else the address of the machine's name
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"turn {turn}", self._store),  # type: ignore[attr-defined]  # likewise
            rank=self.place.rank,
            world_size=self.place.of,
            timeout=FOR_EVER,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def _listening(place: Place) -> socket.socket:
    """At the one address at which the others look for it; by itself the store listens on every network."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    return socket.create_server((place.host, place.port), family=family)


def cut(networks: nn.ModuleDict, device: torch.device, *, bf16: bool) -> None:
    """Leave each process its share of every weight: rows of its first axis, by torch's FSDP2.

    A block, a head, and what is left of a backbone are gathered when they are called, and again when their gradient is
    computed, which is averaged and cut. `bf16`: they are gathered and computed in it, and their gradients are averaged in
    float32; the backbone's own few weights stay in float32, and so do the tokens between blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    # Of tokens that are views, which nobody writes to.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    halved = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if bf16 else exact
    for network in networks.values():
        inner = list(network.vit.blocks) if isinstance(network, Backbone) else []
        for module in (*inner, network):
            policy = exact if isinstance(module, Backbone) else halved
            fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
            assert isinstance(module, FSDPModule)
            module.set_force_sum_reduction_for_comms(device.type == "cpu")  # gloo knows no means


def is_cut(network: nn.Module) -> bool:
    return any(_is_share(each) for each in network.parameters())


def _is_share(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Without an import of what is there only where weights are cut: half a second of every process."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's share of it, or all of it where it is not cut; writing to it writes to the tensor."""
    return tensor.to_local() if _is_share(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All processes ask for it together."""
    return tensor.full_tensor() if _is_share(tensor) else tensor


def cut_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole `tensor`, cut as `pattern` is, without asking another process. It may be of another shape."""
    if not _is_share(pattern):
        return tensor
    from torch.distributed.tensor import DTensor

    mesh = pattern.device_mesh
    each = -(-len(tensor) // mesh.size())
    rank = mesh.get_local_rank()
    share = tensor[rank * each : (rank + 1) * each].to(pattern.device)
    return DTensor.from_local(
        share, mesh, pattern.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def clip(module: nn.Module, most: float) -> Tensor:
    """Scale the gradients of `module` down to a norm of `most`; return their norm, over the shares of all processes."""
    norm = whole(nn.utils.get_total_norm([each.grad for each in module.parameters() if each.grad is not None]))
    nn.utils.clip_grads_with_norm_(module.parameters(), most, norm)
    return norm
