"""Deduplication, retrieval and balance of embeddings that are given: seconds, memory, and pairs found of those planted.

    python benchmarks/curation.py 100000 300000 1000000 --folder /tmp/curation

The generator ("themes in a tree"): 384 dimensions; 60 themes of Zipf sizes, in each of them subjects, also of Zipf sizes,
about one for 200 images; an image is its theme, its subject and a remainder in 64 directions of its subject's own, so that
neighbours are near and most directions empty, as in embeddings of photographs. A tenth of the pool are copies of others, at
cosines of 0.9 to 0.995, and a hundred images have a hundred copies each. A hundredth as many queries are of ten themes.
"""

import argparse
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dinov2lab.curation import copying, stages
from dinov2lab.curation.index import Search
from dinov2lab.curation.inputs import Inputs, Read
from dinov2lab.curation.scan import KEPT
from dinov2lab.curation.stages import Left
from dinov2lab.draws import Key
from dinov2lab.spec.curation import Duplicates, HierarchicalClusters, Retrieve
from dinov2lab.spec.embedders import TimmEmbedder

DIM, THEMES, SUBJECT, OWN = 384, 60, 200, 64
THRESHOLD = 0.88
BLOCK = 50_000
EMBEDDER = TimmEmbedder(kind="timm", name="planted")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def zipf(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    weight = 1 / np.arange(1, count + 1)
    return rng.permutation(count)[rng.choice(count, size, p=weight / weight.sum())]


def images(theme: np.ndarray, subjects: int, rng: np.random.Generator) -> np.ndarray:
    """(N, D) of the themes (N,); theme and subject are the same for any call, the remainder is drawn."""
    fixed = np.random.default_rng(1)
    themes = unit(fixed.standard_normal((THEMES, DIM)))
    directions = np.linalg.qr(fixed.standard_normal((DIM, DIM)))[0].astype(np.float32)
    subject = zipf(subjects, len(theme), rng)
    own = (theme.astype(np.int64) * subjects + subject) % 2**31
    out = np.empty((len(theme), DIM), np.float32)
    for number in np.unique(own):
        here = np.flatnonzero(own == number)
        its = np.random.default_rng([2, int(number)])
        centre = its.standard_normal(DIM).astype(np.float32) / DIM**0.5
        axes = directions[its.permutation(DIM)[:OWN]]
        rest = rng.standard_normal((len(here), OWN)).astype(np.float32) @ axes / OWN**0.5
        out[here] = themes[theme[here]] + centre + 0.9 * rest
    return unit(out)


def copies(of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Copies at cosines of 0.9 to 0.995 to their originals (N, D)."""
    cosine = rng.uniform(0.9, 0.995, (len(of), 1)).astype(np.float32)
    noise = rng.standard_normal(of.shape).astype(np.float32)
    noise = unit(noise - (noise * of).sum(1, keepdims=True) * of)
    return unit(cosine * of + np.sqrt(1 - cosine**2) * noise)


def planted(size: int, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pool (N, D) and the queries (Q, D), mapped from files, and (P, 2) the planted pairs."""
    names = [folder / f"{name}-{size}.npy" for name in ("pool", "queries", "pairs")]
    if not names[2].exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        crowded, tenth = min(100, size // 1000), size // 10
        originals = size - tenth
        subjects = max(1, originals // SUBJECT // THEMES)
        place = rng.permutation(size)
        pool = np.lib.format.open_memmap(names[0], "w+", np.float32, (size, DIM))
        for start in range(0, originals, BLOCK):
            stop = min(start + BLOCK, originals)
            pool[place[start:stop]] = images(zipf(THEMES, stop - start, rng), subjects, rng)
        of = np.concatenate(
            [np.repeat(rng.choice(originals, crowded, replace=False), 100), rng.choice(originals, tenth)]
        )
        of = of[:tenth]
        for start in range(0, tenth, BLOCK):
            part = slice(start, min(start + BLOCK, tenth))
            pool[place[originals + part.start : originals + part.stop]] = copies(pool[place[of[part]]], rng)
        np.save(names[1], images(rng.integers(0, 10, size // 100), subjects, rng))
        np.save(names[2], np.sort(np.stack([place[of], place[originals:]], axis=1), axis=1))
    return np.load(names[0], mmap_mode="r"), np.load(names[1], mmap_mode="r"), np.load(names[2])


class Given:
    """A source whose images are rows of an array, for an `embed` that looks them up."""

    labels, classes = None, ()

    def __init__(self, uri: str, vectors: np.ndarray) -> None:
        self.uri, self.vectors = uri, vectors
        self.paths = tuple(f"{number:08d}" for number in range(len(vectors)))

    def read(self, index: int) -> bytes:
        raise NotImplementedError("its images are embedded already")

    def fingerprint(self) -> str:
        return f"{self.uri} {len(self.vectors)}"


class Folder:
    """As much of a manifest's folder as embeddings are named by."""

    def __init__(self, path: Path) -> None:
        self.path = path


def as_read(uri: str, vectors: np.ndarray, folder: Path) -> Read:
    source = Given(uri, vectors)
    rows = np.arange(len(vectors))
    return Read(source, Folder(folder / f"{uri}-{len(vectors)}"), rows, source.paths, np.asarray(source.paths, bytes))


def all_left(pool: Read) -> Left:
    size = len(pool.rows)
    columns = {name: pa.nulls(size, kind) for name, kind in zip(KEPT.names, KEPT.types, strict=True)}
    columns |= {"path": pa.array(pool.paths), "row": pa.array(pool.rows), "content": pa.array(pool.paths)}
    return Left(pa.table(columns | {"pixels": pa.array(pool.paths)}, schema=KEPT), pool, pool.rows)


def anonymous_mb() -> float:
    """Memory that cannot be given back to a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it gives, and its seconds, seconds of CPU, and peak of anonymous memory in MB."""
    peak, done = [anonymous_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peak.append(anonymous_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    began, cpu = time.perf_counter(), time.process_time()
    try:
        result = work()
    finally:
        done.set()
        thread.join()
    seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "anonymous_mb": max(peak)}
    return result, {name: round(value, 1) for name, value in seconds.items()}


def pair_recall(table: pa.Table, pairs: np.ndarray, size: int) -> float:
    """Of the planted pairs, those found."""
    found = np.sort(np.stack([np.asarray(table[name].to_pylist(), np.int64) for name in ("a", "b")], axis=1), axis=1)
    return float(np.isin(pairs @ [size, 1], found @ [size, 1]).mean())


def measure(size: int, folder: Path, search: Search) -> dict[str, Any]:
    pool_vectors, query_vectors, pairs = planted(size, folder)

    def embed(embedder: Any, source: Any, rows: Any) -> np.ndarray:
        return np.ascontiguousarray(source.vectors[rows])

    pool, queries = (as_read(*each, folder) for each in (("pool", pool_vectors), ("queries", query_vectors)))
    shutil.rmtree(folder / "cache" / "near", ignore_errors=True)  # what an earlier run has found
    inputs = Inputs(lambda uri: queries.source, embed, folder / "cache" / "manifests", search)
    for read in (pool, queries):
        inputs.features(EMBEDDER, read)
    left, key = all_left(pool), Key(0)
    start = {
        "images": size,
        "search": search.kind,
        "threads": torch.get_num_threads(),
        "before_mb": round(anonymous_mb()),
    }
    duplicates = Duplicates(stage="duplicates", embedder=EMBEDDER, threshold=THRESHOLD, mirrored=False)
    retrieve = Retrieve(stage="retrieve", queries="queries", embedder=EMBEDDER, images=size // 10)
    levels = (max(8, size // 200), max(4, size // 2000), max(2, size // 20000))
    balance = HierarchicalClusters(
        stage="hierarchical_clusters", embedder=EMBEDDER, images=size // 10, levels=levels, resamplings=2, nearest=5
    )
    work = {
        "duplicates": lambda: copying.duplicates(duplicates, left, inputs),
        "retrieve": lambda: stages.retrieved(retrieve, left, queries, inputs),
        "balance": lambda: stages.hierarchical_clusters(balance, left, inputs, key),
    }
    for name, stage in work.items():
        result, cost = timed(stage)
        start[name] = cost | {"kept": len(result.kept)} | result.search | result.counts
        if name == "duplicates":
            start[name]["planted_pairs_found"] = round(pair_recall(result.tables["pairs"], pairs, size), 5)
        print(json.dumps({name: start[name]}), flush=True)
    start["seconds"] = round(sum(start[name]["seconds"] for name in work), 1)
    start["cpu"] = round(sum(start[name]["cpu"] for name in work), 1)
    return start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/curation"))
    parser.add_argument("--search", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = [measure(size, options.folder, Search(kind=options.search)) for size in options.sizes]
    for row in found:
        print(json.dumps(row))
    for before, after in itertools.pairwise(found):
        power = np.log(after["cpu"] / before["cpu"]) / np.log(after["images"] / before["images"])
        print(f"from {before['images']:,} to {after['images']:,} images cost grows as N^{power:.2f}")


if __name__ == "__main__":
    main()
