"""Runs of a dozen steps on pictures in memory."""

import io
from typing import Any

import numpy as np
from PIL import Image

from dinov2lab.data.loader import Pictures
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.run import (
    Dino,
    EvaluationSpec,
    Head,
    Ibot,
    Koleo,
    ObjectiveSpec,
    OptimSpec,
    RunSpec,
    Teacher,
    ViewsSpec,
)

HEAD = Head(prototypes=16, hidden=32, bottleneck=8)
SPEC = RunSpec(
    views=ViewsSpec(global_px=32, local_px=16, local_crops=2),
    model=ModelSpec(size="pico", patch=8, layer_scale=0.1, drop_path=0.2),
    objective=ObjectiveSpec(
        dino=Dino(head=HEAD),
        ibot=Ibot(head=HEAD),
        koleo=Koleo(group=4),
        teacher=Teacher(temperature_warmup_steps=6, centering="sinkhorn"),
    ),
    optim=OptimSpec(batch=8, steps=12, lr=1e-3, warmup_steps=3, freeze_last_layer_steps=2),
    evaluation=EvaluationSpec(memory=None, test=None, every=24),
)


def with_(spec: RunSpec, changes: dict[str, Any]) -> RunSpec:
    """`spec` with other values at dotted keys, validated anew."""
    tree = spec.model_dump()
    for key, value in changes.items():
        *path, last = key.split(".")
        branch = tree
        for name in path:
            branch = branch[name]
        branch[last] = value
    return RunSpec.model_validate(tree)


class Noise:
    """Small smooth random pictures."""

    labels, classes, uri = None, (), "memory:noise"

    def __init__(self, count: int) -> None:
        self.paths = tuple(f"{row}" for row in range(count))

    def read(self, index: int) -> bytes:
        file = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 20), Image.Resampling.BICUBIC).save(file, "PNG")
        return file.getvalue()

    def fingerprint(self) -> str:
        return ""


def pictures(count: int = 20) -> Pictures:
    return Pictures(Noise(count), range(count))
