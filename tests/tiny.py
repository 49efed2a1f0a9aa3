"""A study as small as it gets, and commands in processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RECIPE = """
description: As small as it gets; it learns nothing.
data: {train: "toyweb:pool?images=400"}
curation: {leaks: {against: ["toyweb:test?images=96"]}}
views: {global_px: 32, local_px: 16, local_crops: 2, blur: "off"}
model: {size: pico, patch: 8, layer_scale: 1.0, drop_path: 0.1}
objective:
  dino: {head: {prototypes: 32, hidden: 64, bottleneck: 16}}
  ibot: {head: {prototypes: 32, hidden: 64, bottleneck: 16}}
  koleo: {group: 16}
  teacher: {temperature_start: 0.03, temperature: 0.03, temperature_warmup_steps: 0, momentum: 0.99, centering: sinkhorn}
optim: {batch: 32, steps: 12, lr: 1.0e-3, warmup_steps: 2, layer_decay: 1.0, patch_embed_lr: 1.0, freeze_last_layer_steps: 1,
        weight_decay_end: 0.04}
evaluation:
  memory: "toyweb:queries?images=96"
  test: "toyweb:test?images=96"
  every: 128
  knn: {k: [5, 10]}
  linear: {epochs: 5}
  retrieval: true
  segmentation: {epochs: 2}
"""
EMBEDDER = """
base: tiny.yaml
data: {train: "toyweb:queries?images=96"}
curation: null
"""
STUDY = """
question: Does the path hold?
base: ../experiments/tiny.yaml
factor: curation.stages
equal: steps
baseline: uncurated
seeds: [0, 1]
metrics: [test/knn, test/linear, test/retrieval, test/segmentation]
decide: {metric: test/knn}
arms:
  uncurated:
    curation.stages: [{stage: sample, images: 96}]
  retrieved:
    curation.stages:
      - {stage: duplicates}
      - stage: retrieve
        queries: toyweb:queries?images=96
        embedder: {kind: run, run: ../experiments/embedder.yaml}
        images: 96
"""


HOLDER = """
import sys, time
from pathlib import Path
from dinov2lab.store import atomic
with atomic.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def written(folder: Path, recipe: str = RECIPE, study: str = STUDY) -> Path:
    """`folder`, with the study `path` and its recipes in it."""
    for name, text in (
        ("experiments/tiny.yaml", recipe),
        ("experiments/embedder.yaml", EMBEDDER),
        ("ablations/path.yaml", study),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def dinov2lab(
    folder: Path, *words: str, program: Sequence[str] = ("-m", "dinov2lab.cli"), **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command in `folder`, as in a terminal of its own, where `variables` are set."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | variables
    command = [sys.executable, *program, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def started(folder: Path, *words: str) -> "subprocess.Popen[str]":
    """The command in `folder`, which goes on in a session of its own; a Ctrl-C reaches it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dinov2lab.cli", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=interruptible,
        start_new_session=True,
    )


def holder(lock: Path) -> "subprocess.Popen[str]":
    """Another process, which has the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def interruptible() -> None:
    """In a new process: what a shell starts in the background begins with Ctrl-C ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
