"""A checkpoint in shards: a file of tensors for each process that wrote it, and an index that makes them one.

The index is JSON and stands where a checkpoint of one file would: renamed into place when all shards are written, it is
what makes them a checkpoint. Tensors are safetensors; nothing in them is code.

A tensor that all files have is cut along its first axis, in the order of the files; one that the first alone has is whole.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinov2lab.store import atomic


def name_of(path: Path, step: int, rank: int, of: int) -> str:
    """Of the shard of one process beside the index `path`."""
    return f"{path.stem}-{step}.{rank + 1}-of-{of}.safetensors"


def write(tensors: Mapping[str, Tensor], path: Path) -> None:
    ready = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    atomic.write(path, lambda temporary: save_file(ready, temporary))


def write_index(path: Path, files: Sequence[str], values: Mapping[str, Any]) -> None:
    atomic.write_json(path, {"files": list(files), **values})


def forget(path: Path, but: Sequence[str] = ()) -> None:
    """Remove the shards of earlier checkpoints, which no index names any more."""
    for file in path.parent.glob(f"{path.stem}-*.safetensors"):
        if file.name not in but:
            file.unlink(missing_ok=True)


def is_index(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the index says, and all tensors whole. Raises ValueError, naming the file that is damaged or missing."""
    try:
        values = json.loads(path.read_bytes())
        files = [path.with_name(Path(name).name) for name in values.pop("files")]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it to start again from nothing") from error
    parts = [_loaded(file, path) for file in files]
    first, others = parts[0], parts[1:]
    return values, {
        name: torch.cat([tensor, *(other[name] for other in others)]) if others and name in others[0] else tensor
        for name, tensor in first.items()
    }


def _loaded(file: Path, index: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{file}: damaged or missing ({reason}); delete {index} to start again from nothing"
        ) from error
