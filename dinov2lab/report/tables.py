"""What a study left on disk, as rows: read once, and shown only from here, so that every number has its run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from dinov2lab.report import words
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Study, expand
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunResult

ROWS = 50  # of a run's metrics.jsonl that the table tells of, besides its looks at val
COLUMNS = ["study", "arm", "seed", "run", "metric", "step", "value"]
NOT_METRICS = ("step", "images", "time")

Status = Literal["finished", "failed", "unfinished", "not run"]


@dataclass(frozen=True)
class Run:
    """One cell of a study, whatever has become of it."""

    arm: str
    seed: int
    id: str
    spec: RunSpec
    outcome: RunResult | None
    rows: tuple[dict[str, Any], ...]  # metrics.jsonl
    provenance: dict[str, Any]
    manifest: Path | None  # folder of its manifest, where it has been curated

    @property
    def status(self) -> Status:
        if self.outcome:
            return self.outcome.status
        return "unfinished" if self.rows or self.provenance else "not run"

    @property
    def finals(self) -> dict[str, float]:
        """The final metrics of a finished run; a failed one has none that could be compared."""
        return self.outcome.metrics if self.outcome and self.outcome.status == "finished" else {}

    @property
    def reason(self) -> str:
        """Why it has no result, in words."""
        match self.status:
            case "failed":
                return (self.outcome and self.outcome.error) or "failed without a message"
            case "unfinished":
                step = self.rows[-1]["step"] if self.rows else 0
                return f"running or stopped: at step {step:,} of {self.spec.optim.steps:,}"
        return "" if self.status == "finished" else "not started"


@dataclass(frozen=True)
class Cost:
    """What an arm cost: means over its finished runs, the highest peak of memory."""

    arm: str
    n: int
    images: float
    flops: float
    seconds: float
    peak_memory_mb: float
    parameters: int | None


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one run come from."""

    arm: str
    seed: int
    run: str
    commit: str
    code: str
    manifest: str
    finished: str
    versions: str


def read_runs(study: Study, workspace: Workspace) -> tuple[Run, ...]:
    """Every planned run of the study, in the order in which they are run: seed by seed."""
    return tuple(_read(workspace, *cell) for cell in expand(study))


def _read(workspace: Workspace, arm: str, seed: int, run: str, spec: RunSpec) -> Run:
    folder = workspace.run(run)
    provenance = json.loads(folder.provenance.read_bytes()) if folder.provenance.exists() else {}
    manifest = provenance.get("manifest_folder")
    return Run(
        arm,
        seed,
        run,
        spec,
        folder.outcome(),
        tuple(folder.rows()),
        provenance,
        workspace.path / manifest if manifest else None,
    )


def results_table(study: Study, runs: Iterable[Run]) -> pd.DataFrame:
    """Tidy: one value a row. Final metrics, and the costs under cost/, stand at the run's last step.

    The history is thinned to about ROWS rows a run, so that a table can be kept beside its report.
    """
    rows = [(study.name, run.arm, run.seed, run.id, *measured) for run in runs for measured in _measured(run)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(run: Run) -> Iterable[tuple[str, int, float]]:
    last = run.spec.optim.steps
    finals = dict(run.finals)
    if finals and run.outcome and run.outcome.cost:
        finals |= {f"cost/{name}": float(number) for name, number in run.outcome.cost.model_dump().items()}
    for row in _thinned(run.rows):
        for metric, number in row.items():
            if metric not in NOT_METRICS and not (row["step"] >= last and metric in finals):
                yield metric, row["step"], number
    for metric, number in finals.items():
        yield metric, last, number


def _thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every look at val, and so many of the other rows; metrics.jsonl keeps them all."""
    stride = max(1, -(-len(rows) // ROWS))
    return [
        row for index, row in enumerate(rows) if index % stride == 0 or any(name.startswith("val/") for name in row)
    ]


def finals(runs: Iterable[Run], arm: str, metric: str) -> dict[int, float]:
    """Seed -> final value of one metric, over the finished runs of an arm that have it."""
    return {run.seed: run.finals[metric] for run in runs if run.arm == arm and metric in run.finals}


def labelled(runs: Iterable[Run]) -> bool:
    """Whether any finished run was measured with labels."""
    return any(words.is_accuracy(metric) for run in runs for metric in run.finals)


def costs(study: Study, runs: tuple[Run, ...]) -> tuple[Cost, ...]:
    """One row for each arm that has a finished run."""
    table = []
    for arm in study.arms:
        outcomes = [run.outcome for run in runs if run.arm == arm.name and run.outcome and run.status == "finished"]
        spent = [outcome.cost for outcome in outcomes if outcome.cost]
        if spent:
            images, flops, seconds = (
                sum(getattr(cost, name) for cost in spent) / len(spent) for name in ("images", "flops", "seconds")
            )
            peak = max(cost.peak_memory_mb for cost in spent)
            table.append(Cost(arm.name, len(spent), images, flops, seconds, peak, outcomes[0].parameters))
    return tuple(table)


def origins(runs: Iterable[Run]) -> tuple[Origin, ...]:
    return tuple(_origin(run, run.outcome) for run in runs if run.outcome)


def _origin(run: Run, outcome: RunResult) -> Origin:
    finished = datetime.fromtimestamp(outcome.finished_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = outcome.environment or run.provenance.get("versions", {})
    return Origin(
        arm=run.arm,
        seed=run.seed,
        run=run.id,
        commit=(outcome.commit or "none")[:10],
        code=outcome.code[:12],
        manifest=outcome.manifest or "none",
        finished=finished,
        versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    )


def mixtures(runs: tuple[Run, ...]) -> tuple[str, ...]:
    """Why the finished runs must not be compared with one another, if anything speaks against it.

    Different code makes different numbers; a source that changed between runs, or an arm without a sample stage whose
    images differ between seeds, are different data under one name.
    """
    found, outcomes = [], [(run, run.outcome) for run in runs if run.outcome and run.status == "finished"]
    codes = sorted({outcome.code[:12] for _, outcome in outcomes})
    if len(codes) > 1:
        found.append(f"the runs were made by different code ({', '.join(codes)})")
    for uri in sorted({uri for _, outcome in outcomes for uri in outcome.sources}):
        if len({outcome.sources[uri] for _, outcome in outcomes if uri in outcome.sources}) > 1:
            found.append(f"the source {uri} changed between runs")
    for arm in dict.fromkeys(run.arm for run, _ in outcomes if not samples(run.spec)):
        manifests = sorted({outcome.manifest or "none" for run, outcome in outcomes if run.arm == arm})
        if len(manifests) > 1:
            found.append(f"the arm {arm} draws no sample, yet its runs saw different images ({', '.join(manifests)})")
    return tuple(found)


def samples(spec: RunSpec) -> bool:
    """Whether the run's seed draws which images it is trained on."""
    return spec.curation is not None and any(stage.stage == "sample" for stage in spec.curation.stages)


def seed_varies(study: Study) -> tuple[str, ...]:
    """What differs between two seeds of one arm."""
    sampled = [arm.name for arm in study.arms if samples(arm.spec)]
    varies = ["the network's first weights", "the order of the images", "the crops and their colours", "the masks"]
    if sampled:
        varies.append(f"the random sample of images (in {words.listed(sampled)})")
    return tuple(varies)
