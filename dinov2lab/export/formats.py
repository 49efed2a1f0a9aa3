"""A finished run's backbone for others: a folder for timm, for Hugging Face's transformers, or for ONNX runtimes.

Each folder holds a model card made from the run's provenance. What is written is loaded again by the library that it is for,
and its features are compared with ours before the folder gets its name.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dinov2lab.data.views import MEAN, STD
from dinov2lab.export.card import card
from dinov2lab.model.blocks import PackedBlock
from dinov2lab.model.names import to_huggingface
from dinov2lab.model.vit import Backbone
from dinov2lab.model.weights import load_backbone, pretrained
from dinov2lab.spec.run import RunSpec
from dinov2lab.store import atomic
from dinov2lab.store.result import RunFolder

Kind = Literal["timm", "hf", "onnx"]
NEEDS = {"timm": (), "hf": ("transformers",), "onnx": ("onnxscript", "onnxruntime")}
TOLERANCE = 1e-3  # between features of unit variance, in float32
IMAGES = 3  # compared


class Exported(NamedTuple):
    folder: Path
    difference: float  # the largest between our features and the other library's


def export(folder: RunFolder, kind: Kind, out: Path) -> Exported:
    """Write `out`, which must not exist. Raises ValueError where it cannot be, or where the features would differ."""
    if missing := [name for name in NEEDS[kind] if find_spec(name) is None]:
        raise ValueError(f"--to {kind} needs {' and '.join(missing)}: pip install 'dinov2lab[export]'")
    if out.exists():
        raise ValueError(f"{out}: exists already")
    spec = folder.read_spec()
    backbone = load_backbone(spec, folder.backbone).eval()
    write, read = _WAYS[kind]
    images = torch.randn(IMAGES, 3, *(2 * [spec.views.global_px]), generator=torch.Generator().manual_seed(0))
    found: list[float] = []

    def save(temporary: Path) -> None:
        write(backbone, spec, temporary)
        with torch.inference_mode():
            (ours,), theirs = backbone([images]), read(temporary, images)
        found.append(max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)))
        if not found[0] <= TOLERANCE:
            raise ValueError(f"{out}: the features would differ by {found[0]:.1e}, nothing was written")
        (temporary / "README.md").write_text(card(folder, kind, found[0]), encoding="utf-8")

    atomic.write_folder(out, save)
    return Exported(out, found[0])


class _Plain(nn.Module):
    """(B, 3, P, P) images of the trained size to class tokens (B, D) and patch tokens (B, N, D), for tracing."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.backbone.embed(images, None)
        for block in self.backbone.vit.blocks:
            assert isinstance(block, PackedBlock)
            q, k, v = block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block.ls1.gamma * block.attn.proj(mixed)
            hidden = block.mlp.fc1(block.norm2(x))
            if block.mlp.activation == "swiglu":
                gate, value = hidden.chunk(2, -1)
                hidden = F.silu(gate) * value
            else:
                hidden = F.gelu(hidden)
            x = x + block.ls2.gamma * block.mlp.fc2(hidden)
        tokens = self.backbone.vit.norm(x)
        return tokens[:, 0], tokens[:, 1 + self.backbone.registers :]


def _write_timm(backbone: Backbone, spec: RunSpec, folder: Path) -> None:
    save_file(backbone.vit.state_dict(), folder / "model.safetensors")
    model, px = spec.model, spec.views.global_px
    size: str = model.size if model.size in ("base", "large") and model.ffn == "mlp" else "small"
    arguments: dict[str, Any] = {
        "img_size": px,
        "patch_size": model.patch,
        "embed_dim": backbone.dim,
        "depth": backbone.depth,
        "num_heads": backbone.heads,
        "init_values": model.layer_scale,
        "dynamic_img_size": True,
    }
    if model.registers:
        arguments["reg_tokens"] = model.registers
    if model.ffn == "swiglu":  # of timm's architectures the giant one alone has such layers
        size, arguments["mlp_ratio"] = "giant", (2 * model.hidden + 0.5) / backbone.dim
    registers = "_reg4" if model.registers else ""
    config = {
        "architecture": f"vit_{size}_patch14{registers}_dinov2",
        "num_classes": 0,
        "num_features": backbone.dim,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {"num_classes": 0, "input_size": [3, px, px], "crop_pct": 1.0, **_preparation()},
    }
    _write_json(folder / "config.json", config)


def _read_timm(folder: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    network: Any = pretrained(f"local-dir:{folder}").eval()
    tokens = network.forward_features(images)
    return network(images), tokens[:, network.num_prefix_tokens :]


def _write_huggingface(backbone: Backbone, spec: RunSpec, folder: Path) -> None:
    model, px = spec.model, spec.views.global_px
    state = to_huggingface(backbone.state_dict(), gated=model.ffn == "swiglu")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["Dinov2WithRegistersModel" if model.registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if model.registers else "dinov2",
        "hidden_size": backbone.dim,
        "num_hidden_layers": backbone.depth,
        "num_attention_heads": backbone.heads,
        "image_size": px,
        "patch_size": model.patch,
        "layerscale_value": model.layer_scale,
        "use_swiglu_ffn": model.ffn == "swiglu",
        "dtype": "float32",
    }
    _write_json(folder / "config.json", config | ({"num_register_tokens": model.registers} if model.registers else {}))
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": px},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": px, "width": px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN.flatten().tolist(),
        "image_std": STD.flatten().tolist(),
    }
    _write_json(folder / "preprocessor_config.json", processor)


def _read_huggingface(folder: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # of a few milliseconds
    network = AutoModel.from_pretrained(folder).eval()
    tokens = network(images).last_hidden_state
    return tokens[:, 0], tokens[:, 1 + getattr(network.config, "num_register_tokens", 0) :]


def _write_onnx(backbone: Backbone, spec: RunSpec, folder: Path) -> None:
    px = spec.views.global_px
    torch.onnx.export(
        _Plain(backbone).eval(),
        (torch.zeros(2, 3, px, px),),
        folder / "model.onnx",
        dynamo=True,
        input_names=["images"],
        output_names=["cls", "patches"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    _write_json(folder / "config.json", {"input_size": [3, px, px], **_preparation()})


def _read_onnx(folder: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    cls, patches = session.run(["cls", "patches"], {"images": images.numpy()})
    return torch.from_numpy(cls), torch.from_numpy(patches)


def _preparation() -> dict[str, Any]:
    return {"mean": MEAN.flatten().tolist(), "std": STD.flatten().tolist(), "interpolation": "bicubic"}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


Writer = Callable[[Backbone, RunSpec, Path], None]
Reader = Callable[[Path, Tensor], tuple[Tensor, Tensor]]
_WAYS: dict[Kind, tuple[Writer, Reader]] = {
    "timm": (_write_timm, _read_timm),
    "hf": (_write_huggingface, _read_huggingface),
    "onnx": (_write_onnx, _read_onnx),
}
