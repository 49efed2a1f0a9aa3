"""The names and layouts that Hugging Face's Dinov2 gives to the weights of our backbone, there and back.

Theirs differ in three things: query, key and value are apart; the inner layers of SwiGLU have names of their own; and with
registers the class token's position is apart from the class token, which timm's networks, and so ours, hold as their sum.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TOKENS = {
    "mask_token": "embeddings.mask_token",
    "vit.cls_token": "embeddings.cls_token",
    "vit.reg_token": "embeddings.register_tokens",
    "vit.pos_embed": "embeddings.position_embeddings",
    "vit.patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "vit.patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "vit.norm.weight": "layernorm.weight",
    "vit.norm.bias": "layernorm.bias",
}
_LAYERS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_GATED = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
_QKV = [f"attention.attention.{part}" for part in ("query", "key", "value")]


def to_huggingface(weights: Mapping[str, Tensor], *, gated: bool) -> dict[str, Tensor]:
    """A backbone's state by the names of Dinov2Model, or of Dinov2WithRegistersModel where it has registers."""
    weights, found = dict(weights), dict[str, Tensor]()
    if "vit.reg_token" in weights:
        positions = weights["vit.pos_embed"]
        weights["vit.pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    layers = _LAYERS | (_GATED if gated else {})
    for name, value in weights.items():
        block = re.fullmatch(r"vit\.blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", name)
        if block is None:
            found[_TOKENS[name]] = value
            continue
        index, layer, kind = block[1], block[2], block[3] or ""
        theirs = _QKV if layer == "attn.qkv" else [layers[layer]]
        for each, part in zip(theirs, value.chunk(len(theirs)), strict=True):
            found[f"encoder.layer.{index}.{each}{kind}"] = part.contiguous()
    return found


def from_huggingface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of our backbone; names that are not Dinov2's stay as they are."""
    tokens = {theirs: ours for ours, theirs in _TOKENS.items()}
    layers = {theirs: ours for ours, theirs in (*_LAYERS.items(), *_GATED.items())}
    found, apart = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for name, value in weights.items():
        block = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+?)(\.weight|\.bias)?", name)
        index, layer, kind = (block[1], block[2], block[3] or "") if block else ("", "", "")
        if layer in _QKV:
            apart.setdefault(f"vit.blocks.{index}.attn.qkv{kind}", {})[layer] = value
        elif layer in layers:
            found[f"vit.blocks.{index}.{layers[layer]}{kind}"] = value
        else:
            found[tokens.get(name, name)] = value
    for name, parts in apart.items():
        if parts.keys() == set(_QKV):
            found[name] = torch.cat([parts[each] for each in _QKV])
    if "vit.reg_token" in found and {"vit.cls_token", "vit.pos_embed"} <= found.keys():
        first, found["vit.pos_embed"] = found["vit.pos_embed"].tensor_split([1], dim=1)
        found["vit.cls_token"] = found["vit.cls_token"] + first
    return found
