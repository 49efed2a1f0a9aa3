"""What a study left on disk, as rows: read once, and shown only from here, so that every number has its run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from dinov2lab.report import words
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Study, expand
from dinov2lab.store.energy import kilowatt_hours
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

READ = 200_000  # rows of metrics.jsonl that are read of a study, shared out to its runs
LEAST = 20  # of a run, however many runs there are
LOOK = b'"val/'  # what a row of a look at val holds

Item = TypeVar("Item")
Status = Literal["finished", "failed", "unfinished", "not run"]


@dataclass(frozen=True, eq=False)
class Run:
    """One cell of a study, whatever has become of it."""

    arm: str
    seed: int
    id: str
    spec: RunSpec
    outcome: RunResult | None
    rows: tuple[dict[str, Any], ...]  # of metrics.jsonl: all, or evenly spaced ones
    provenance: dict[str, Any]
    manifest: Path | None  # folder of its manifest, where it has been curated
    energy: Mapping[str, float] = field(default_factory=dict)  # `gpu` and `cpu` -> kWh, where the machine told of it

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
    def skipped(self) -> dict[str, str]:
        """URI of what a finished run was to be evaluated on and was not there -> why."""
        return self.outcome.skipped if self.outcome and self.outcome.status == "finished" else {}

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
class Skipped:
    """A set that finished runs were not evaluated on."""

    uri: str
    fields: tuple[str, ...]  # of the recipe, that name it
    why: str
    runs: int


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
    energy: Mapping[str, float]  # `gpu` and `cpu` -> kWh, where it is known of every finished run


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one run come from."""

    arm: str
    seed: str
    run: str
    commit: str
    code: str
    manifest: str
    finished: str
    versions: str


def read_runs(study: Study, workspace: Workspace) -> tuple[Run, ...]:
    """Every planned run of the study, in the order in which they are run: seed by seed."""
    cells = expand(study)
    most = max(LEAST, READ // len(cells))
    return tuple(_read(workspace, most, *cell) for cell in cells)


def _read(workspace: Workspace, most: int, arm: str, seed: int, run: str, spec: RunSpec) -> Run:
    folder = workspace.run(run)
    provenance = folder.read_provenance()
    manifest = provenance.get("manifest_folder")
    return Run(
        arm,
        seed,
        run,
        spec,
        folder.outcome(),
        _rows(folder, most),
        provenance,
        workspace.path / manifest if manifest else None,
        kilowatt_hours(folder, provenance),
    )


def _rows(folder: RunFolder, most: int) -> tuple[dict[str, Any], ...]:
    """About `most` rows, and as many looks at val; the last row is among them. What is left out is not parsed."""
    lines = folder.lines()
    looks = [place for place, line in enumerate(lines) if LOOK in line]
    kept = {*every(range(len(lines)), most), *every(looks, most), *range(len(lines))[-1:]}
    return tuple(json.loads(b"[" + b",".join(lines[place] for place in sorted(kept)) + b"]"))


def every(items: Sequence[Item], most: int) -> Sequence[Item]:
    """At most `most` of `items`, evenly spaced from the first."""
    return items[:: max(1, -(-len(items) // most))]


@lru_cache(maxsize=1)
def by_arm(runs: tuple[Run, ...]) -> dict[str, tuple[Run, ...]]:
    """Looked up for every number of a report, so grouped once."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    return {arm: tuple(group) for arm, group in groups.items()}


def finals(runs: tuple[Run, ...], arm: str, metric: str) -> dict[int, float]:
    """Seed -> final value of one metric, over the finished runs of an arm that have it."""
    return {run.seed: run.finals[metric] for run in by_arm(runs).get(arm, ()) if metric in run.finals}


def labelled(runs: Iterable[Run]) -> bool:
    """Whether any finished run was measured with labels."""
    return any(words.is_accuracy(metric) for run in runs for metric in run.finals)


def skipped(runs: Iterable[Run]) -> tuple[Skipped, ...]:
    """Each set that was not there when a run ended and has not been made up for since, once."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        for uri, why in run.skipped.items():
            found.setdefault((uri, why), []).append(run)
    fields = {
        uri: [name for run in mine for name, its in run.spec.evaluation.named().items() if its == uri]
        for (uri, _), mine in found.items()
    }
    return tuple(Skipped(uri, tuple(dict.fromkeys(fields[uri])), why, len(mine)) for (uri, why), mine in found.items())


def costs(study: Study, runs: tuple[Run, ...]) -> tuple[Cost, ...]:
    """One row for each arm that has a finished run."""
    table = []
    for arm in study.arms:
        mine = by_arm(runs).get(arm.name, ())
        outcomes = [run.outcome for run in mine if run.outcome and run.status == "finished"]
        spent = [outcome.cost for outcome in outcomes if outcome.cost]
        if spent:
            images, flops, seconds = (
                sum(getattr(cost, name) for cost in spent) / len(spent) for name in ("images", "flops", "seconds")
            )
            peak = max(cost.peak_memory_mb for cost in spent)
            parameters, energy = outcomes[0].parameters, _energy([run for run in mine if run.status == "finished"])
            table.append(Cost(arm.name, len(spent), images, flops, seconds, peak, parameters, energy))
    return tuple(table)


def _energy(runs: Sequence[Run]) -> dict[str, float]:
    parts = [part for part in ("gpu", "cpu") if all(part in run.energy for run in runs)]
    return {part: sum(run.energy[part] for run in runs) / len(runs) for part in parts}


def origins(runs: Iterable[Run]) -> tuple[Origin, ...]:
    return tuple(_origin(run, run.outcome) for run in runs if run.outcome)


def _origin(run: Run, outcome: RunResult) -> Origin:
    finished = datetime.fromtimestamp(outcome.finished_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = outcome.environment or run.provenance.get("versions", {})
    return Origin(
        arm=run.arm,
        seed=str(run.seed),
        run=run.id,
        commit=(outcome.commit or "none")[:10],
        code=outcome.code[:12],
        manifest=outcome.manifest or "none",
        finished=finished,
        versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    )


def by_origin(origins: Sequence[Origin]) -> tuple[Origin, ...]:
    """One row for all runs of an arm that come from one place, where runs are too many to be told one by one."""
    groups: dict[tuple[str, ...], list[Origin]] = {}
    for each in origins:
        groups.setdefault((each.arm, each.commit, each.code, each.manifest, each.versions), []).append(each)
    return tuple(
        replace(
            group[0],
            seed=words.count(len(group)),
            run="in results.csv",
            finished=" to ".join(
                dict.fromkeys((min(each.finished for each in group), max(each.finished for each in group)))
            ),
        )
        for group in groups.values()
    )


def mixtures(runs: tuple[Run, ...]) -> tuple[str, ...]:
    """Why the finished runs must not be compared with one another, if anything speaks against it.

    Different code makes different numbers; a source that changed between runs, or an arm whose curation draws
    nothing and whose images differ between seeds, are different data under one name.
    """
    found, outcomes = [], [(run, run.outcome) for run in runs if run.outcome and run.status == "finished"]
    codes = sorted({_code(outcome) for _, outcome in outcomes})
    if len(codes) > 1:
        found.append(f"the runs were made by different code ({', '.join(codes)})")
    read = sorted({source for _, outcome in outcomes for source in outcome.sources.items()})
    names = [uri for uri, _ in read]
    found += [f"the source {uri} changed between runs" for uri in dict.fromkeys(names) if names.count(uri) > 1]
    drawn: dict[str, set[str]] = {}
    for run, outcome in outcomes:
        if not (run.spec.curation and run.spec.curation.draws()):
            drawn.setdefault(run.arm, set()).add(outcome.manifest or "none")
    for arm, manifests in drawn.items():
        if len(manifests) > 1:
            found.append(
                f"the arm {arm} draws no images, yet its runs saw different images ({', '.join(sorted(manifests))})"
            )
    return tuple(found)


def _code(outcome: RunResult) -> str:
    """What made its numbers, the later ones too."""
    later = outcome.completed_by or outcome.code
    return outcome.code[:12] + (f", completed by {later[:12]}" if later != outcome.code else "")


def seed_varies(study: Study) -> tuple[str, ...]:
    """What differs between two seeds of one arm."""
    drawn = [arm.name for arm in study.arms if arm.spec.curation and arm.spec.curation.draws()]
    varies = ["the network's first weights", "the order of the images", "the crops and their colours", "the masks"]
    if drawn:
        varies.append(f"which images are drawn (in {words.listed(drawn)})")
    if study.tune and study.tune.per == "seed":
        varies.append("what the search for it found")
    return tuple(varies)
