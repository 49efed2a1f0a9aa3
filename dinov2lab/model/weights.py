"""Weights from elsewhere: public ones by timm's names or from Hugging Face's folders, and backbones that runs left.

Strict: a key too few or too many, or of another shape, is named. Position embeddings alone may be of another size, and
are resampled as the reference does.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dinov2lab.model import shards
from dinov2lab.model.names import from_huggingface
from dinov2lab.model.vit import Backbone, Tokens, positions_at
from dinov2lab.spec.model import HuggingFaceWeights, TimmWeights
from dinov2lab.spec.run import RunSpec

SHOWN = 3  # keys of each kind that an error names
INDEX = "model.safetensors.index.json"


def public(weights: TimmWeights | HuggingFaceWeights, backbone: Backbone, root: Path) -> dict[str, Tensor]:
    """A state that fits `backbone`; folders are relative to `root`. timm drops the mask token, which starts at 0 then.

    Raises ValueError where the weights cannot be had, or are not those of such a network.
    """
    if isinstance(weights, TimmWeights):
        return fitting({"mask_token": torch.zeros(1, backbone.dim), **_timm(weights.name)}, backbone, weights.name)
    folder = root / weights.folder
    return fitting(from_huggingface(_safetensors(folder)), backbone, str(folder))


def _timm(name: str) -> dict[str, Tensor]:
    return {f"vit.{key}": value for key, value in pretrained(name).state_dict().items()}


def pretrained(name: str, **options: int) -> nn.Module:
    import timm

    try:
        network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, **options)
        return network
    except Exception as error:  # unknown names, no network and no cache each raise kinds of their own
        near = difflib.get_close_matches(name, timm.list_pretrained("*dinov2*"), 1)
        hint = f"; did you mean {near[0]}?" if near and near[0] != name else ""
        raise ValueError(f"timm model {name!r}: {next(iter(str(error).splitlines()), 'failed')}{hint}") from error


def _safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder, which holds one file, or several and an index of them."""
    try:
        if (folder / INDEX).is_file():
            names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        else:
            names = ["model.safetensors"]
        return {key: value for name in names for key, value in load_file(folder / name).items()}
    except OSError as error:
        raise ValueError(f"{folder}: holds no weights ({error})") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: damaged weights ({next(iter(str(error).splitlines()), 'no index')})") from error


def fitting(found: Mapping[str, Tensor], network: nn.Module, origin: str) -> dict[str, Tensor]:
    """`found` as a state of `network`, positions resampled to its size. Raises ValueError, naming what does not fit."""
    wanted = network.state_dict()
    fitted = {key: _resampled(key, value, wanted) for key, value in found.items()}
    wrong = {key for key in fitted.keys() & wanted.keys() if fitted[key].shape != wanted[key].shape}
    complaints = [
        _listed("missing", wanted.keys() - fitted.keys()),
        _listed("too many", fitted.keys() - wanted.keys()),
        _listed("of another shape", {f"{key} {_by(fitted[key])}, not {_by(wanted[key])}" for key in wrong}),
    ]
    if any(complaints):
        raise ValueError(f"{origin}: not the weights of this network: {'; '.join(filter(None, complaints))}")
    return {key: value.to(wanted[key].dtype) for key, value in fitted.items()}


def _resampled(key: str, value: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    other = wanted.get(key)
    if not key.endswith("pos_embed") or other is None or value.ndim != 3 or value.shape[2] != other.shape[2]:
        return value
    registers = key.removesuffix("pos_embed") + "reg_token" in wanted
    side, old = (math.isqrt(each.shape[1] - (not registers)) for each in (other, value))
    return positions_at(value, (side, side), registers) if old**2 == value.shape[1] - (not registers) else value


def _listed(what: str, keys: set[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{what}: {', '.join(sorted(keys)[:SHOWN])}{more}" if keys else ""


def _by(value: Tensor) -> str:
    return " x ".join(map(str, value.shape))


def digest(state: Mapping[str, Tensor]) -> str:
    """A hash of names and values, whatever file they came in."""
    found = hashlib.sha256()
    for key in sorted(state):
        found.update(key.encode())
        found.update(state[key].detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def load_backbone(spec: RunSpec, file: Path) -> Backbone:
    """The backbone that a run of `spec` left in `file`."""
    backbone = Backbone(spec.model, spec.views.global_px)
    backbone.load_state_dict(fitting(read(file), backbone, str(file)))
    return backbone


def read(path: Path) -> dict[str, Any]:
    """What torch saved there, or a checkpoint in shards, joined; never runs code from the file."""
    if path.is_file() and shards.is_index(path):
        return _joined(*shards.read(path))
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
        raise ValueError(f"{path}: damaged ({reason}); delete it to start again from nothing") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint (it holds a {type(content).__name__})")
    return content


def _joined(values: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """As a checkpoint of one file has it."""
    moments: dict[int, dict[str, Tensor]] = {}
    content: dict[str, Any] = values | {"optimizer": {"state": moments, "param_groups": values.pop("groups")}}
    for name, tensor in tensors.items():
        side, rest = name.split("/", 1)
        if side == "optimizer":
            number, moment = rest.split("/")
            moments.setdefault(int(number), {})[moment] = tensor
        else:
            content.setdefault(side, {})[rest] = tensor
    content["centres"] = (content["centres"]["cls"], content["centres"]["patches"])
    return content


class Pretrained(nn.Module):
    """A timm model as an embedder of images: its pooled features stand where the class token stands."""

    network: Any
    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, px: int | None) -> None:
        """`px`: of its images; without it, those that it was trained with.

        Raises ValueError where timm has no such model or its weights cannot be had.
        """
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        super().__init__()
        self.name = name
        self.network = pretrained(name, **({} if px is None else {"img_size": px}))
        prepared = self.network.pretrained_cfg
        self.px = px or int(prepared["input_size"][-1])
        ours = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        mean, std, our_mean, our_std = (
            torch.tensor(each).view(3, 1, 1) for each in (prepared["mean"], prepared["std"], *ours)
        )
        self.register_buffer("scale", our_std / std, persistent=False)  # from our colours to those it was trained with
        self.register_buffer("shift", (our_mean - mean) / std, persistent=False)

    def forward(self, crops: Sequence[Tensor]) -> list[Tokens]:
        found = (self.network(images * self.scale + self.shift) for images in crops)
        return [Tokens(pooled, pooled.new_empty(len(pooled), 0, 0)) for pooled in found]

    def last(self, images: Tensor, count: int) -> list[Tokens]:
        """As Backbone.last. Raises ValueError where the network has no class token among patch tokens."""
        if not getattr(self.network, "has_class_token", False):
            raise ValueError(f"timm model {self.name!r} has no class token and patch tokens, its pooled features alone")
        found = self.network.forward_intermediates(
            images * self.scale + self.shift,
            indices=min(count, len(self.network.blocks)),
            norm=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        return [Tokens(prefix[:, 0], patches) for patches, prefix in found]
