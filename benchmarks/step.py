"""Speed and memory of the training step on fixed work (see work.py).

    python benchmarks/step.py --work W1 --rounds 10                 alone
    python bench_step.py --work W1 --worker 'dinov2lab=python benchmarks/step.py --work W1 --serve'      beside others

With --serve it speaks the harness's worker protocol: one line of JSON when it is ready, then for each line N on standard
input N steps and one line of JSON with the seconds of each.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from work import SIZES, recipe, synthetic_crops, with_masks

from dinov2lab.draws import Key
from dinov2lab.spec.resources import Resources
from dinov2lab.training.parts import Parts
from dinov2lab.training.step import State, train_step

Step = Callable[[], float]  # returns the loss


def build(work: str, drop_path: float, resources: Resources) -> Step:
    """A function that does one whole step, from ready views to an updated teacher."""
    spec, key = recipe(work, drop_path), Key(0)
    resources.check(spec)
    parts = Parts(resources)
    state, crops = State(spec, key, torch.device("cpu")), synthetic_crops(spec)

    def step() -> float:
        return float(train_step(state, with_masks(crops, state.step, spec, key), spec, key, parts)["loss/total"])

    return step


def measured(step: Step, count: int) -> dict[str, object]:
    wall, cpu, loss = [], [], 0.0
    for _ in range(count):
        began, used = time.perf_counter(), time.process_time()
        loss = step()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return {"wall": wall, "cpu": cpu, "loss": loss, "peak_rss_mb": peak_rss_mb()}


def peak_rss_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def serve(step: Step) -> None:
    print(json.dumps({"ready": True, "rss_before_mb": peak_rss_mb()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measured(step, int(line))), flush=True)


def alone(step: Step, args: argparse.Namespace, how: dict[str, object]) -> None:
    measured(step, 2)
    figures = measured(step, args.rounds)
    batch = SIZES[args.work]["batch"]
    wall, cpu = statistics.median(figures["wall"]), statistics.median(figures["cpu"])
    what = {"bench": "step", "work": args.work, "drop_path": args.drop_path, **how}
    speeds = {"wall_s": round(wall, 4), "cpu_s": round(cpu, 4), "img_s": round(batch / wall, 2)}
    print(json.dumps(what | speeds | {"peak_rss_mb": figures["peak_rss_mb"], "torch": torch.__version__}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=SIZES, default="W1")
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--side-by-side", type=int, default=1)
    parser.add_argument("--recompute", choices=("nothing", "hidden", "blocks"), default="nothing")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--serve", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    how = {name: getattr(args, name) for name in ("threads", "micro_batches", "side_by_side", "recompute")}
    step = build(args.work, args.drop_path, Resources(**how))
    if args.serve:
        serve(step)
    else:
        alone(step, args, how)


if __name__ == "__main__":
    main()
