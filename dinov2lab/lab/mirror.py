"""What MLflow should say of a run, read from its folder, and of a study, read from its report."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dinov2lab.lab.sending import TAG_LENGTH, VALUE_LENGTH, Target, complete, cursor_of, cut, send_rows, upload
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell, Study
from dinov2lab.store import atomic
from dinov2lab.store.energy import kilowatt_hours
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import Manifest, ManifestFolder
from dinov2lab.store.result import RunFolder, RunResult

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

State = Literal["running", "finished", "failed", "killed"]

STATUS: dict[State, str] = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
DIGEST_LENGTH = 36  # MLflow's limit
BEGAN, ERROR = "dinov2lab.began", "dinov2lab.error"


class Observed(NamedTuple):
    """What a run's folder says at one moment."""

    state: State
    outcome: RunResult | None
    provenance: dict[str, Any]
    began: int | None  # time of the first row of metrics.jsonl, ms: tells a repeated run from the first one


def observe(folder: RunFolder) -> Observed | None:
    """None while the run waits. Asks for the lock first: a run that ends in between has its outcome by then."""
    alive = atomic.held(folder.lock)
    outcome = folder.outcome()
    if outcome is None and not alive and not folder.provenance.exists():
        return None
    provenance = folder.read_provenance()
    if outcome and (outcome.status == "finished" or not alive):
        state: State = outcome.status
    else:
        outcome, state = None, "running" if alive else "killed"
    return Observed(state, outcome, provenance, _began(folder))


def _began(folder: RunFolder) -> int | None:
    if not folder.metrics.exists():
        return None
    with folder.metrics.open("rb") as file:
        line = file.readline()
    return int(json.loads(line)["time"]) if line.endswith(b"\n") else None


def mirror_run(
    target: Target,
    study: str,
    parent: str,
    cell: Cell,
    workspace: Workspace,
    also: Mapping[str, str] | None = None,
    factor: Sequence[str] = (),
) -> State | None:
    """Bring MLflow's child run of one cell up to what is on disk; its end is told last. None where the run waits.

    `also` are tags that the caller has of its own, `factor` the fields that its study varies.
    """
    folder = workspace.run(cell.run)
    seen = observe(folder)
    if seen is None:
        return None
    target.in_time()
    tags = _tags(study, parent, cell, seen) | dict(also or {})
    name = f"{cell.arm} · seed {cell.seed}"
    run = _find(target, cell.run, seen)
    if run is None:
        run = target.client.create_run(target.experiment, _started(folder, seen), tags, name)
    target.children[cell.run] = run.info.run_id
    if run.info.run_name != name:
        target.client.update_run(run.info.run_id, name=name)
    complete(
        target,
        run,
        tags=tags,
        params=flattened(cell.spec) | varied(cell, factor),
        metrics=_final(folder, seen),
        at=_ended(folder, seen),
    )
    if ERROR in run.data.tags and ERROR not in tags:  # it failed, and went on
        target.client.delete_tag(run.info.run_id, ERROR)
    cursor = cursor_of(target, run)
    send_rows(target, folder.metrics, run, seen.began, cursor)
    if folder.vitals.exists():
        send_rows(target, folder.vitals, run, seen.began, cursor.with_suffix(".system"))
    _send_dataset(target, run, cell.spec, seen, workspace)
    upload(target, run, folder.pictures, "pictures")
    _send_status(target, run, seen.state, _ended(folder, seen))
    return seen.state


def _find(target: Target, run: str, seen: Observed) -> "Run | None":
    """The child run of this very execution: a run that was repeated has other times, and gets a child of its own."""
    children = [child for child in target.runs if child.data.tags.get("run_id") == run]
    mine = [child for child in children if child.data.tags.get(BEGAN, str(seen.began)) == str(seen.began)]
    mine.sort(key=lambda child: child.info.run_id)
    replaced = [child for child in children if child not in mine and cursor_of(target, child).exists()]
    for child in [*mine[1:], *replaced]:  # a second of mine: a request that was answered too late was sent again
        target.client.delete_run(child.info.run_id)
        cursor_of(target, child).unlink(missing_ok=True)
    return mine[0] if mine else None


def _send_status(target: Target, run: "Run", state: State, ended: int) -> None:
    if state == "running" and run.info.status != "RUNNING":
        target.client.update_run(run.info.run_id, status="RUNNING")
    elif state != "running" and (run.info.status, run.info.end_time) != (STATUS[state], ended):
        target.client.set_terminated(run.info.run_id, STATUS[state], end_time=ended)


def _tags(study: str, parent: str, cell: Cell, seen: Observed) -> dict[str, str]:
    source: Mapping[str, Any] = seen.outcome.model_dump() if seen.outcome else seen.provenance
    tags: dict[str, Any] = {
        "mlflow.parentRunId": parent,
        "mlflow.source.git.commit": source.get("commit"),
        "study": study,
        "arm": cell.arm,
        "seed": cell.seed,
        "run_id": cell.run,
        "commit": source.get("commit"),
        "code": source.get("code"),
        "dinov2lab.kind": "run",
        "dinov2lab.state": seen.state,
        BEGAN: seen.began,
        ERROR: seen.outcome.error if seen.outcome else None,
    }
    return {key: cut(str(value), TAG_LENGTH) for key, value in tags.items() if value is not None}


def _started(folder: RunFolder, seen: Observed) -> int:
    """ms"""
    times = [round(seen.provenance["started_at"] * 1000)] if "started_at" in seen.provenance else []
    times += [seen.began] if seen.began is not None else []
    return min(times, default=_ended(folder, seen))


def _ended(folder: RunFolder, seen: Observed) -> int:
    """ms: of the outcome, else of the last sign of life."""
    if seen.outcome:
        return round(seen.outcome.finished_at * 1000)
    signs = [file.stat().st_mtime for file in (folder.metrics, folder.provenance) if file.exists()]
    return round(max(signs, default=time.time()) * 1000)


def _final(folder: RunFolder, seen: Observed) -> dict[str, float]:
    if seen.outcome is None:
        return {}
    values = {f"final/{name}": value for name, value in seen.outcome.metrics.items()}
    if seen.outcome.cost:
        values |= {f"cost/{name}": float(value) for name, value in seen.outcome.cost.model_dump().items()}
    if seen.outcome.parameters is not None:
        values["cost/parameters"] = float(seen.outcome.parameters)
    return values | {f"cost/{part}_kwh": spent for part, spent in kilowatt_hours(folder, seen.provenance).items()}


def _send_dataset(target: Target, run: "Run", spec: RunSpec, seen: Observed, workspace: Workspace) -> None:
    """The manifest of the training images, once it is known, as the run's dataset."""
    name = seen.provenance.get("manifest_folder")
    manifest = ManifestFolder(workspace.path / name).read() if name else None
    digest = seen.outcome.manifest if seen.outcome and seen.outcome.manifest else manifest and manifest.id
    had = {known.dataset.digest for known in run.inputs.dataset_inputs} if run.inputs else set()
    if digest and digest[:DIGEST_LENGTH] not in had:
        target.client.log_inputs(run.info.run_id, datasets=[_dataset(spec, digest[:DIGEST_LENGTH], manifest)])


def _dataset(spec: RunSpec, digest: str, manifest: Manifest | None) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    stages = [stage.stage for stage in spec.curation.stages] if spec.curation else []
    profile = manifest.model_dump_json(include={"rows", "dropped", "stage", "parent"}) if manifest else None
    source = json.dumps({"uri": spec.data.train})
    dataset = Dataset(" → ".join([spec.data.train, *stages])[:500], digest, "local", source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def varied(cell: Cell, factor: Sequence[str]) -> dict[str, str]:
    """What a study varies, named alike in all arms: the value, or where that is no single one, the name of the arm.

    What charts across arms are made of: of `flattened`, some names are only in some arms.
    """
    spec, found = cell.spec.model_dump(mode="json"), {"arm": cell.arm} if factor else {}
    for field in factor:
        value: Any = spec
        for key in field.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        found[f"varied.{field}"] = str(value) if isinstance(value, str | int | float) else cell.arm
    return {name: cut(value, VALUE_LENGTH) for name, value in found.items()}


def flattened(spec: RunSpec) -> dict[str, str]:
    """Every field of a spec by its dotted key; what is longer than MLflow takes ends in a mark."""

    def leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for name, item in value.items():
                yield from leaves(f"{key}.{name}" if key else name, item)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                yield from leaves(f"{key}.{index}", item)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield key, cut(text, VALUE_LENGTH)

    return dict(leaves("", spec.model_dump(mode="json")))


def mirror_report(target: Target, study: Study, parent: "Run", states: Sequence[State | None], report: Path) -> None:
    """The parent run: the question, the verdict, how far the study is, and the report's files."""
    file = report / "verdict.json"
    verdict: list[dict[str, Any]] = json.loads(file.read_bytes()) if file.exists() else []
    counts = {state: states.count(state) for state in ("finished", "running", "failed", "killed")}
    tags = {
        "mlflow.note.content": cut(_note(study, verdict), TAG_LENGTH),
        "dinov2lab.runs": ", ".join(f"{count} {state}" for state, count in counts.items()),
    }
    at = round(file.stat().st_mtime * 1000) if verdict else 0
    complete(target, parent, tags=tags, params={}, metrics=_verdict_values(verdict), at=at)
    upload(target, parent, report, "report")
    ended = counts["finished"] + counts["failed"] == len(study.arms) * len(study.seeds)
    status = "FINISHED" if ended else "RUNNING" if counts["running"] else "SCHEDULED"
    if parent.info.status != status and ended:
        target.client.set_terminated(parent.info.run_id, status)
    elif parent.info.status != status:
        target.client.update_run(parent.info.run_id, status=status)


def _note(study: Study, verdict: list[dict[str, Any]]) -> str:
    """Markdown, as the page of a run shows it: the question, and what the study says to it."""
    deciding = [entry for entry in verdict if entry["metric"] == study.decide.metric]
    lines = [f"- {entry['arm']} against {entry['baseline']}: {entry['words']}" for entry in deciding]
    return "\n".join([study.question, *([f"\n{study.decide.metric}:\n"] if lines else []), *lines])


def _verdict_values(verdict: list[dict[str, Any]]) -> dict[str, float]:
    return {
        f"verdict/{entry['metric']}/{entry['arm']}/{name}": entry[name]
        for entry in verdict
        for name in ("difference", "low", "high")
        if entry.get(name) is not None
    }
