"""How far features are from ours in timm, transformers and onnxruntime: one JSON line per network and library.

The networks are as they start, their LayerScale at 1 so that every block counts.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from dinov2lab.export.formats import export
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.run import RunSpec, ViewsSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

NETWORKS = {
    "S/14": ModelSpec(size="small", patch=14, layer_scale=1.0),
    "S/14, SwiGLU, 4 registers": ModelSpec(size="small", patch=14, layer_scale=1.0, ffn="swiglu", registers=4),
    "B/14": ModelSpec(size="base", patch=14, layer_scale=1.0),
}


def finished(model: ModelSpec, folder: RunFolder) -> None:
    """The folder of a run that has trained nothing."""
    spec = RunSpec(model=model, views=ViewsSpec(global_px=224, local_px=98))
    backbone = Backbone(model, 224)
    backbone.initialise(torch.Generator().manual_seed(0))
    atomic.write_text(folder.spec, spec.model_dump_json())
    torch.save(backbone.state_dict(), folder.backbone)
    atomic.write_json(folder.provenance, {"manifest_folder": "none"})
    folder.write_outcome(RunResult(run=folder.path.name, status="finished", code="none", finished_at=0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    for name in parser.parse_args().network or NETWORKS:
        with tempfile.TemporaryDirectory() as place:
            folder = Workspace(Path(place)).run("000000000000")
            finished(NETWORKS[name], folder)
            for kind in ("timm", "hf", "onnx"):
                done = export(folder, kind, Path(place) / kind)
                print(json.dumps({"network": name, "to": kind, "largest_difference": done.difference}), flush=True)


if __name__ == "__main__":
    main()
