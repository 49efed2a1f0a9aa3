"""The user's command end to end: images in a folder, a small ViT, some passes; wall seconds, start-up apart.

    python benchmarks/end_to_end.py --cifar cifar10_train.parquet [--images 2000] [--passes 2] [--rounds 3] [--peer PYTHON]

Ours is `dinov2lab run RECIPE` in a fresh workspace, from the process's start to its end: reading and hashing every image, the
training, the last look and the result. One loader process for each. The peer, an interpreter with lightly-train, does the
same work through `lightly_train.pretrain`, in turn with ours. One JSON line each, medians over the rounds.

Width 64, depth 4, patch 4, 2 crops of 32 px and 6 of 16, batch 64, 4,096 prototypes behind 512 hidden units, separate heads.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from views import written

BATCH = 64
RECIPE = """
description: The work of benchmarks/end_to_end.py
data: {{train: "folder:images"}}
views: {{global_px: 32, local_px: 16, local_crops: 6, blur: intended}}
model: {{size: pico, patch: 4, drop_path: 0.1}}
objective:
  dino: {{head: {{prototypes: 4096, hidden: 512}}}}
  ibot: {{head: {{prototypes: 4096, hidden: 512}}}}
  teacher: {{temperature_warmup_steps: 10}}
optim: {{batch: {batch}, steps: {steps}, warmup_steps: 10, freeze_last_layer_steps: 0, lr: 1.0e-3}}
evaluation: {{memory: null, test: null}}
"""
PEER = """
import json, resource, sys, time
from lightly_train import pretrain
from lightly_train._methods.dinov2.dinov2 import DINOv2
from lightly_train._models.dinov2_vit.dinov2_vit_src.models.vision_transformer import DinoVisionTransformer

images, out, passes, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
network = DinoVisionTransformer(
    img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=2, init_values=1e-5,
    drop_path_rate=0.1, drop_path_uniform=True, block_chunks=0,
)
times, step = [], DINOv2.training_step

def timed(self, *rest):
    times.append(time.time())
    return step(self, *rest)

DINOv2.training_step = timed
pretrain(
    out=out, data=images, model=network, method="dinov2", epochs=passes, batch_size=batch, num_workers=1, accelerator="cpu",
    method_args={"output_dim": 4096, "hidden_dim": 512, "ibot_separate_head": True},
    transform_args={"image_size": (32, 32), "local_view": {"view_size": (16, 16), "num_views": 6}},
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with open(out + ".json", "w") as file:
    json.dump({"first": times[0], "last": times[-1], "steps": len(times), "peak_memory_mb": round(peak)}, file)
"""


def called(command: list[str], folder: Path) -> float:
    """Wall seconds."""
    environment = os.environ | {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1"}
    began = time.time()
    with (folder / "log").open("w") as log:
        code = subprocess.call(command, cwd=folder, stdout=log, stderr=log, env=environment)
    if code:
        sys.exit(f"{command[0]}: exit code {code}\n{(folder / 'log').read_text()[-2000:]}")
    return time.time() - began


def ours(folder: Path, images: int, passes: int) -> dict[str, float]:
    steps = images * passes // BATCH
    (folder / "recipe.yaml").write_text(RECIPE.format(batch=BATCH, steps=steps))
    began = time.time()
    words = ["run", "recipe.yaml", "--workspace", "lab", "--device", "cpu"]
    wall = called([sys.executable, "-m", "dinov2lab.cli", *words], folder)
    (run,) = (folder / "lab/runs").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[0]["time"] / 1000, rows[-1]["time"] / 1000  # each is written when its step has ended
    cost = json.loads((run / "result.json").read_text())["cost"]
    speed = (rows[-1]["images"] - rows[0]["images"]) / (last - first)
    startup = first - began - BATCH / speed
    return {"wall_s": wall, "startup_s": startup, "images_s": speed, "peak_memory_mb": cost["peak_memory_mb"]}


def theirs(folder: Path, images: int, passes: int, python: str) -> dict[str, float]:
    began = time.time()
    wall = called([python, "-c", PEER, str(folder / "images"), str(folder / "out"), str(passes), str(BATCH)], folder)
    told = json.loads((folder / "out.json").read_text())
    speed = (told["steps"] - 1) * BATCH / (told["last"] - told["first"])
    startup = told["first"] - began
    return {"wall_s": wall, "startup_s": startup, "images_s": speed, "peak_memory_mb": told["peak_memory_mb"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", metavar="PYTHON")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"dinov2lab": [], "lightly_train": []}
    for _ in range(args.rounds):
        for name in ("dinov2lab", "lightly_train") if args.peer else ("dinov2lab",):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                written(args.cifar, folder / "images", args.images)
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                one = (
                    ours(folder, args.images, args.passes)
                    if name == "dinov2lab"
                    else theirs(folder, args.images, args.passes, args.peer)
                )
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                found[name].append(one | {"cpu_s": cpu})
    for name, rounds in found.items():
        if rounds:
            medians = {key: round(statistics.median(one[key] for one in rounds), 1) for key in rounds[0]}
            print(json.dumps({"figure": "end_to_end", "who": name, "rounds": len(rounds), **medians}), flush=True)


if __name__ == "__main__":
    main()
