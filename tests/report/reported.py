"""A workspace with a study on disk, fabricated through the store's own types: nothing is trained."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov2lab.spec.curation import CurationSpec, Duplicates, Leaks, Retrieve, Sample
from dinov2lab.spec.embedders import Thumbnails
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.run import OptimSpec, RunSpec
from dinov2lab.spec.study import Arm, Cell, Decide, Study, expand
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import Manifest
from dinov2lab.store.result import Cost, RunResult

ENVIRONMENT = {"torch": "2.15.0", "timm": "1.0.22", "python": "3.11.9", "device": "cpu"}
LEVELS = {"uncurated": 0.524, "deduplicated": 0.531, "retrieved": 0.603}
FINISHED_AT = 1_763_900_000.0

LEAKS = Leaks(against=("toyweb:test",))
DUPLICATES = Duplicates(stage="duplicates")
STAGES = {
    "uncurated": (Sample(stage="sample", images=4000),),
    "deduplicated": (DUPLICATES, Sample(stage="sample", images=4000)),
    "retrieved": (DUPLICATES, Retrieve(stage="retrieve", queries="toyweb:queries", embedder=Thumbnails(), images=4000)),
}


@dataclass(frozen=True)
class Fabricated:
    study: Study
    workspace: Workspace
    cells: tuple[Cell, ...]

    def cell(self, arm: str, seed: int) -> Cell:
        return next(cell for cell in self.cells if (cell.arm, cell.seed) == (arm, seed))


def make_study(
    seeds: tuple[int, ...], metrics: tuple[str, ...] = ("test/knn", "test/linear", "health/rankme")
) -> Study:
    optim = OptimSpec(batch=64, steps=500, warmup_steps=50, freeze_last_layer_steps=0)
    arms = tuple(
        Arm(name=name, spec=RunSpec(optim=optim, curation=CurationSpec(leaks=LEAKS, stages=stages)))
        for name, stages in STAGES.items()
    )
    return Study(
        name="curation_vs_uncurated",
        question="Is a curated set better than the same number of uncurated images?",
        factor=("curation.stages",),
        equal="steps",
        baseline="uncurated",
        arms=arms,
        seeds=seeds,
        metrics=metrics,
        decide=Decide(metric=metrics[0]),
    )


def draw(cell: Cell, *, labels: bool) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Rows of metrics.jsonl and the final metrics of one run, plausible and seeded."""
    run = np.random.default_rng([cell.seed, sorted(LEVELS).index(cell.arm)])
    shared = np.random.default_rng(cell.seed)  # what a seed does to all arms alike
    knn = LEVELS[cell.arm] + shared.normal(0, 0.012) + run.normal(0, 0.006)
    untrained, pixels, uniform = 0.317 + shared.normal(0, 0.004), 0.284, math.log(65536)
    rows, steps, batch = [], cell.spec.optim.steps, cell.spec.optim.batch
    for step in range(0, steps, 5):
        done = step / steps
        row = {"step": step, "images": step * batch, "time": int(1e3 * FINISHED_AT) + step}
        for name, end in (("dino_global", 0.62), ("dino_local", 0.70), ("ibot", 0.78)):
            row[f"loss/{name}"] = uniform * (end + (1 - end) * math.exp(-5 * done)) + run.normal(0, 0.08)
        row["loss/koleo"] = 1.2 - 0.9 * done + run.normal(0, 0.05)
        row["loss/total"] = row["loss/dino_global"] + row["loss/dino_local"] + row["loss/ibot"]
        row |= {"teacher/entropy": uniform * (0.9 - 0.5 * done) + run.normal(0, 0.1), "optim/lr": 1e-3 * (1 - done)}
        row["student/entropy"] = row["teacher/entropy"] + 0.6
        row["gradient/norm"] = 2.5 * math.exp(-2 * done) + abs(run.normal(0, 0.2))
        if step % 50 == 0:
            row |= {"health/feature_std": 0.2 + 0.6 * done, "health/rankme": 20 + 60 * done + run.normal(0, 2)}
            if labels:
                row["val/knn"] = untrained + (knn - untrained) * (1 - math.exp(-4 * done)) + run.normal(0, 0.004)
        rows.append(row)
    finals = {"health/feature_std": 0.81, "health/rankme": 78 + run.normal(0, 3), "loss/total": rows[-1]["loss/total"]}
    if labels:
        for kind, shift in (("knn", 0.0), ("linear", 0.06)):
            for split in ("val", "test"):
                name = f"{split}/{kind}"
                finals[name] = knn + shift + run.normal(0, 0.003)
                finals |= {f"untrained/{name}": untrained + shift, f"pixels/{name}": pixels + shift}
    return rows, finals


def write_manifest(workspace: Workspace, cell: Cell) -> tuple[str, str]:
    """A curation folder with its funnel and example pictures; returns its place in the workspace, and its id."""
    seeded = any(stage.stage == "sample" for stage in STAGES[cell.arm])
    key = content_id(f"{cell.arm} {cell.seed if seeded else ''}")
    folder = workspace.cache / "manifests" / key
    unreadable = {"corrupt": 61, "truncated": 40, "empty": 12, "not_an_image": 87}
    funnel = [Manifest(id="a0", parent=None, stage="source", parameters={}, rows=11_800, dropped=unreadable)]
    steps = [("leaks", {"threshold": 0.9}, 11_642, {"leak": 158})]
    if len(STAGES[cell.arm]) > 1:
        steps.append(
            (
                "duplicates",
                {"threshold": 0.95, "embedder": {"kind": "thumbnails", "px": 16}},
                8_120,
                {"duplicate": 3_522},
            )
        )
    reason = "not_sampled" if seeded else "not_retrieved"
    steps.append(
        (
            reason[4:].replace("sampled", "sample").replace("retrieved", "retrieve"),
            {"images": 4000},
            4_000,
            {reason: steps[-1][2] - 4_000},
        )
    )
    for stage, parameters, rows, dropped in steps:
        funnel.append(
            Manifest(
                id=content_id([key, stage]),
                parent=funnel[-1].id,
                stage=stage,
                parameters=parameters,
                rows=rows,
                dropped=dropped,
            )
        )
    atomic.write_json(folder / "funnel.json", [json.loads(record.model_dump_json()) for record in funnel])
    write_examples(folder, ["kept", "leak", *(["duplicate"] if len(steps) > 2 else []), reason], cell.seed)
    atomic.write_text(folder / "manifest.json", funnel[-1].model_dump_json())
    found = [{"threshold": 0.85, "images": 7, "pairs": 9}, {"threshold": 1.0, "images": 2, "pairs": 2}]
    sets = [{"set": "toyweb:test", "images": 1600, "found": found}]
    record = {"detector": {"kind": "thumbnails", "px": 16}, "mirrored": True, "images": 400, "sets": sets}
    atomic.write_json(folder / "certificate.json", record)
    return folder.relative_to(workspace.path).as_posix(), funnel[-1].id


def write_examples(folder: Path, reasons: list[str], seed: int) -> None:
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[dict[str, object]]] = {}
    for reason in reasons:
        for index in range(8):
            paired = reason in ("leak", "duplicate")
            files = [f"examples/{reason}_{index}_{role}.png" for role in ("own", "witness")[: 1 + paired]]
            for file in files:
                picture(np.random.default_rng([seed, index, len(reason)])).save(folder / file)
            groups.setdefault(reason, []).append(
                {
                    "path": f"pool/{index:05d}_{reason}.jpg",
                    "file": files[0],
                    "score": 0.97 - index / 100 if reason != "not_sampled" else None,
                    "witness": f"test/{index:04d}.png" if paired else None,
                    "witness_file": files[1] if paired else None,
                }
            )
    atomic.write_json(folder / "examples.json", groups)


def picture(generator: np.random.Generator) -> Image.Image:
    """A soft patch of colours, 64 x 64."""
    coarse = Image.fromarray(generator.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((64, 64), Image.Resampling.BICUBIC)


def write_run(
    workspace: Workspace, cell: Cell, *, labels: bool = True, code: str = "c0de5ca1ab1e", **changes: object
) -> None:
    """A finished run on disk; `changes` replace fields of its result."""
    folder, (rows, finals) = workspace.run(cell.run), draw(cell, labels=labels)
    place, manifest = write_manifest(workspace, cell)
    atomic.write_text(folder.spec, cell.spec.model_dump_json())
    write_started(workspace, cell, rows, place)
    spread = 1 + 0.05 * cell.seed
    result = RunResult(
        run=cell.run,
        status="finished",
        metrics=finals,
        cost=Cost(images=32_000, flops=71_000_000_000_000, seconds=188.0 * spread, peak_memory_mb=812.0 * spread),
        parameters=1_208_000,
        manifest=manifest,
        sources={"toyweb:pool": "f1n9e7"},
        code=code,
        commit="0e6d827f00ba7ba5eba11",
        environment=ENVIRONMENT,
        finished_at=FINISHED_AT + 200 * cell.seed,
    )
    folder.write_outcome(result.model_copy(update=changes))


def write_started(workspace: Workspace, cell: Cell, rows: list[dict[str, float]], place: str | None = None) -> None:
    folder = workspace.run(cell.run)
    atomic.write_json(
        folder.provenance, {"started_at": FINISHED_AT - 200, "code": "c0de5ca1ab1e", "manifest_folder": place}
    )
    atomic.write_text(folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def write_failure(workspace: Workspace, cell: Cell, error: str) -> None:
    write_started(workspace, cell, draw(cell, labels=True)[0][:40])
    failure = RunResult(run=cell.run, status="failed", code="c0de5ca1ab1e", error=error, finished_at=FINISHED_AT)
    workspace.run(cell.run).write_outcome(failure)


Fabricate = Callable[..., Fabricated]


@pytest.fixture
def fabricate(tmp_path: Path) -> Fabricate:
    """A study and its workspace; its runs are finished unless `run` is False."""

    def make(
        seeds: tuple[int, ...] = (0, 1, 2), *, labels: bool = True, run: bool = True, **study: object
    ) -> Fabricated:
        made = make_study(seeds).model_copy(update=study)
        workspace = Workspace(tmp_path / "lab")
        for cell in expand(made) if run else ():
            write_run(workspace, cell, labels=labels)
        return Fabricated(made, workspace, expand(made))

    return make
