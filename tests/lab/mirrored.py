"""What MLflow holds of a workspace beside what is on disk, for the tests of tracking."""

import sys
from collections import Counter
from typing import Any

import fabricated

from dinov2lab.lab import tracking
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import rows_after


def client(workspace: Workspace) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking.tracking_uri(workspace))


def runs_of(workspace: Workspace, study: Study, kind: str = "run") -> dict[str, Any]:
    """Our run id (or the study's name) -> MLflow's run; no two may be of one."""
    connection = client(workspace)
    experiment = connection.get_experiment_by_name(study.name)
    found = [
        run
        for run in connection.search_runs([experiment.experiment_id])
        if run.data.tags["dinov2lab.kind"] == kind and run.data.tags["study"] == study.name
    ]
    named = {run.data.tags.get("run_id", study.name): run for run in found}
    assert len(named) == len(found), "a run is there twice"
    return named


def histories(workspace: Workspace, run: Any) -> Counter[tuple[str, int, int, str]]:
    """(name, step, time, value) of all that came from metrics.jsonl and system.jsonl; repr, for NaN equals nothing."""
    names = [name for name in run.data.metrics if not name.startswith(("final/", "cost/"))]
    connection = client(workspace)
    values = [value for name in names for value in connection.get_metric_history(run.info.run_id, name)]
    return Counter((value.key, value.step, value.timestamp, repr(value.value)) for value in values)


def on_disk(workspace: Workspace, cell: Cell) -> Counter[tuple[str, int, int, str]]:
    rows = workspace.run(cell.run).rows() + rows_after(workspace.run(cell.run).vitals, 0)[0]
    return Counter(
        (name, int(row["images"]), int(row["time"]), repr(clamped(value)))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "images", "time")
    )


def assert_equal_to_disk(workspace: Workspace, study: Study) -> None:
    """Each value of metrics.jsonl and of system.jsonl once, and nothing else."""
    mirrored = runs_of(workspace, study)
    for cell in expand(study):
        assert histories(workspace, mirrored[cell.run]) == on_disk(workspace, cell)


def finished_study(workspace: Workspace, study: Study, count: int = 40) -> None:
    for cell in expand(study):
        fabricated.start(workspace, cell, count)
        fabricated.finish(workspace, cell)
    fabricated.remember(workspace, study)


def clamped(value: float) -> float:
    """MLflow has no infinities."""
    return min(max(float(value), -sys.float_info.max), sys.float_info.max)
