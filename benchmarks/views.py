"""Images per second of one core through decoding and multi-crop, ours and lightly-train's in turn.

    python benchmarks/views.py --photos photos.parquet --cifar cifar10_train.parquet [--peer PYTHON]

Each pipeline is a process of one thread; in every round all of them see the same images, in an order that turns. Speeds are
from CPU time, medians over rounds, one JSON line each. PYTHON is an interpreter that has lightly-train, which is AGPL and
no dependency of ours: its process is started from here and shares no code with this package.

    decode              ours, encoded bytes to pixels
    views               ours, images decoded anew each time
    views_decoded_once  ours, as from the second pass on: pixels from the decoded cache
    lightly_train       decoding and its DINOv2 transform, image by image, as its loader calls it
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

CASES = {  # images, global px, local px, local crops
    "2x98+8x42": ("photos", 98, 42, 8),
    "2x224+8x98": ("photos", 224, 98, 8),
    "2x32+6x16": ("cifar", 32, 16, 6),
}
Load = Callable[[list[int]], object]


def decode(folder: Path, case: str) -> Load:
    from dinov2lab.data.source import Roots, decode, open_source

    source = open_source(f"folder:{folder}", Roots(folder, folder))
    return lambda rows: [decode(source.read(row)) for row in rows]


def views(folder: Path, case: str, once: bool = False) -> Load:
    import numpy as np

    from dinov2lab.data import views
    from dinov2lab.data.loader import Pictures
    from dinov2lab.data.source import Roots, open_source
    from dinov2lab.draws import Key
    from dinov2lab.spec.run import ViewsSpec

    _, px, local_px, count = CASES[case]
    spec = ViewsSpec(global_px=px, local_px=local_px, local_crops=count, blur="intended")
    source = open_source(f"folder:{folder}", Roots(folder, folder))
    pictures = Pictures(source, range(len(source.paths)), **({} if once else {"budget": 0}))
    if once:
        for row in range(len(pictures)):
            pictures.pixels(row)
    return lambda rows: views.views([pictures.pixels(row) for row in rows], np.array(rows), Key(0), spec)


def lightly_train(folder: Path, case: str) -> Load:
    from lightly_train._data.file_helpers import open_image_numpy
    from lightly_train._methods.dinov2 import dinov2_transform as theirs

    _, px, local_px, count = CASES[case]
    local = theirs.DINOv2ViTLocalViewTransformArgs(num_views=count, view_size=(local_px, local_px))
    options = theirs.DINOv2ViTTransformArgs(image_size=(px, px), num_channels=3, local_view=local)
    transform = theirs.DINOv2ViTTransform(options)
    files = sorted(folder.iterdir())
    return lambda rows: [transform({"image": open_image_numpy(files[row])}) for row in rows]


PIPELINES = {
    "decode": decode,
    "views": views,
    "views_decoded_once": lambda folder, case: views(folder, case, once=True),
    "lightly_train": lightly_train,
}


def serve(pipeline: str, case: str, folder: Path) -> None:
    """Answer each line, a JSON list of rows, with the CPU seconds that they took."""
    out, sys.stdout = sys.stdout, sys.stderr  # nothing else may write there
    import torch

    torch.set_num_threads(1)
    load = PIPELINES[pipeline](folder, case)
    version = metadata.version("dinov2lab" if pipeline != "lightly_train" else "lightly-train")
    print(json.dumps({"version": version, "torch": torch.__version__}), file=out, flush=True)
    for line in sys.stdin:
        began = time.process_time()
        load(json.loads(line))
        print(time.process_time() - began, file=out, flush=True)


class Worker:
    def __init__(self, python: str, pipeline: str, case: str, folder: Path) -> None:
        command = [python, __file__, "--serve", pipeline, "--case", case, "--folder", str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LIGHTLY_TRAIN_EVENTS_DISABLED": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.pipeline, self.seconds = pipeline, list[float]()
        self.about: dict[str, str] = json.loads(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline() or sys.exit(f"{self.pipeline}: ended; run it with --serve to see why")

    def load(self, rows: Sequence[int]) -> float:
        assert self._process.stdin is not None
        print(json.dumps(list(rows)), file=self._process.stdin, flush=True)
        return float(self._answer()) / len(rows)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(case: str, folder: Path, peer: str | None, rounds: int, batch: int) -> None:
    count = len(list(folder.iterdir()))
    pythons = {name: sys.executable for name in PIPELINES if name != "lightly_train"}
    workers = [Worker(python, name, case, folder) for name, python in pythons.items()]
    workers += [Worker(peer, "lightly_train", case, folder)] if peer else []
    try:
        for turn in range(-1, rounds):  # the first warms up
            rows = [(turn * batch + row) % count for row in range(batch)]
            for worker in workers[turn % len(workers) :] + workers[: turn % len(workers)]:
                seconds = worker.load(rows)
                worker.seconds += [seconds] if turn >= 0 else []
    finally:
        for worker in workers:
            worker.close()
    theirs = statistics.median(workers[-1].seconds) if peer else None
    for worker in workers:
        median = statistics.median(worker.seconds)
        record = {
            "figure": "views",
            "case": case,
            "pipeline": worker.pipeline,
            "images_per_core_s": round(1 / median, 1),
        }
        quartiles = [round(1 / each, 1) for each in statistics.quantiles(worker.seconds, n=4)[::-2]]
        ratio = {"times_lightly_train": round(theirs / median, 2)} if theirs else {}
        print(json.dumps(record | {"quartiles": quartiles, "rounds": rounds} | ratio | worker.about), flush=True)


def written(parquet: Path, folder: Path, count: int) -> Path:
    """The first `count` images of a Parquet file as files."""
    import pyarrow.parquet as pq

    folder.mkdir()
    images = next(pq.ParquetFile(parquet).iter_batches(count, columns=["image"])).column(0).to_pylist()
    for row, image in enumerate(images):
        (folder / f"{row:05}.jpg").write_bytes(image)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--serve", choices=PIPELINES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.case, args.folder)
        return
    with tempfile.TemporaryDirectory() as place:
        for name, parquet in (("photos", args.photos), ("cifar", args.cifar)):
            if parquet:
                written(parquet, Path(place) / name, args.batch * (args.rounds + 1))
        for case in [args.case] if args.case else CASES:
            folder = Path(place) / CASES[case][0]
            if folder.exists():
                measure(case, folder, args.peer, args.rounds, args.batch)


if __name__ == "__main__":
    main()
