"""All that wants a GPU, in one call: the CUDA tests, parity with the CPU, speed and memory. A line of JSON for each figure.

    python benchmarks/gpu.py                        on CUDA
    python benchmarks/gpu.py --device cpu --small    the same code on the smallest networks, as its test runs it

Speed is of whole steps on ready views of noise: ours, then plain.py's, medians. `mfu` counts the FLOPs that the method
requires after drop path, over PEAK.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plain import plain_step
from work import synthetic_crops, with_masks

from dinov2lab.draws import Key
from dinov2lab.spec.cost import flops_of_image, flops_skipped
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.run import Dino, Head, Ibot, Koleo, ObjectiveSpec, OptimSpec, RunSpec, Teacher, ViewsSpec
from dinov2lab.training.step import Batch, State, train_step

PEAK = 989e12  # FLOP/s, an H100's dense bf16
TESTS = ("tests/training/test_cuda.py",)
WORK = {"small": 128, "base": 128, "large": 64}  # size -> images of a batch, halved until they fit
KEY = Key(0)


def recipe(size: str, batch: int, *, px: tuple[int, int] = (224, 98), patch: int = 14, **model: float) -> RunSpec:
    """The paper's long recipe but for its length: two heads, Sinkhorn-Knopp, KoLeo in groups of at most 16."""
    wide = size not in ("pico", "nano", "tiny")
    head = Head(prototypes=65536) if wide else Head(prototypes=64, hidden=64, bottleneck=32)
    return RunSpec(
        views=ViewsSpec(global_px=px[0], local_px=px[1], local_crops=8),
        model=ModelSpec(size=size, patch=patch, **{"drop_path": 0.3 if wide else 0.0, **model}),
        objective=ObjectiveSpec(
            dino=Dino(head=head),
            ibot=Ibot(head=head),
            koleo=Koleo(group=min(batch, 16)),
            teacher=Teacher(centering="sinkhorn"),
        ),
        optim=OptimSpec(
            batch=batch, steps=100_000, lr=1e-4, warmup_steps=0, freeze_last_layer_steps=0, precision="bf16"
        ),
    )


def say(figure: str, **values: object) -> None:
    print(json.dumps({"figure": figure, **values}), flush=True)


def where(device: torch.device) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    say("machine", device=name, torch=torch.__version__, cuda=torch.version.cuda, python=platform.python_version())


def tests() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", *TESTS]
    answer = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    say("tests", passed=answer.returncode == 0, said=answer.stdout.strip().splitlines()[-3:])


def parity(device: torch.device) -> None:
    """Losses of five steps against those of the CPU in float32, on the same weights, views and masks."""
    spec = recipe("pico", 16, px=(64, 32), patch=8)
    plain = spec.model_copy(update={"optim": spec.optim.model_copy(update={"precision": "fp32"})})
    wanted = losses(plain, torch.device("cpu"))
    for name, each in (("fp32", plain), ("bf16", spec)):
        found = losses(each, device)
        say("parity", precision=name, worst_relative=max(abs(a / b - 1) for a, b in zip(found, wanted, strict=True)))


def losses(spec: RunSpec, device: torch.device, steps: int = 5) -> list[float]:
    state, crops = State(spec, KEY, device), synthetic_crops(spec)
    return [
        float(train_step(state, with_masks(crops, state.step, spec, KEY).to(device), spec, KEY)["loss/total"])
        for _ in range(steps)
    ]


def speed(size: str, batch: int, device: torch.device, rounds: int, **other: object) -> None:
    """Ours, then the plain step; what does not fit is told and tried with half."""
    spec = recipe(size, batch, **other)
    useful = flops_of_image(spec) - flops_skipped(spec)
    for name, step in (("ours", _ours), ("plain", plain_step)):
        images = batch
        while images:
            try:
                seconds, peak = timed(step, recipe(size, images, **other), device, rounds)
            except torch.OutOfMemoryError:
                say("out of memory", step=name, size=size, batch=images)
                images //= 2
                _forget(device)
                continue
            pace = images / seconds
            say(
                "speed",
                step=name,
                size=size,
                batch=images,
                images_per_second=round(pace, 1),
                peak_gb=peak,
                mfu=round(useful * pace / PEAK, 4) if device.type == "cuda" else None,
            )
            break
        _forget(device)


def _ours(state: State, batch: Batch, spec: RunSpec) -> torch.Tensor:
    return train_step(state, batch, spec, KEY)["loss/total"]


def timed(
    step: Callable[[State, Batch, RunSpec], torch.Tensor], spec: RunSpec, device: torch.device, rounds: int
) -> tuple[float, float | None]:
    """(median seconds of a step, peak of the device's memory in GB), after three steps that count for nothing."""
    state, crops = State(spec, KEY, device), synthetic_crops(spec)
    ready = [with_masks(crops, index, spec, KEY).to(device) for index in range(2)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = []
    for count in range(rounds + 3):
        began = time.perf_counter()
        float(step(state, ready[count % 2], spec))
        taken.append(time.perf_counter() - began)
    peak = round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None
    return statistics.median(taken[3:]), peak


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="the smallest networks, few steps, no tests")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = torch.device(args.device)
    where(device)
    if not args.small:
        tests()
    parity(device)
    if args.small:
        speed("pico", 8, device, 1, px=(32, 16), patch=8)
        return
    for size, batch in WORK.items():
        speed(size, batch, device, args.rounds)


if __name__ == "__main__":
    main()
