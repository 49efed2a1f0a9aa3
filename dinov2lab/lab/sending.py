"""Sending to MLflow what it lacks, each value exactly once.

A value of metrics.jsonl is known by its name, step and time, and its row carries its own time. The cursor of a run, the
offset in metrics.jsonl up to which all was sent, stands only while nothing is under way: it is taken away before the
first batch is sent and put back after the last one, so that a kill in between leaves none, and MLflow is asked what it
has.
"""

import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dinov2lab.store import atomic
from dinov2lab.store.result import rows_after

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

Item = TypeVar("Item")

METRICS_PER_BATCH, ITEMS_PER_BATCH = 1000, 100  # MLflow's limits on one request
VALUE_LENGTH, TAG_LENGTH = 6000, 8000  # and on one parameter and tag
CUT = " ... (cut)"


class TrackingError(ValueError):
    """MLflow could not be brought up to date; nothing on disk is the worse for it. One line."""


@dataclass
class Target:
    """An experiment of MLflow, and what it held when the sync began."""

    client: "MlflowClient"
    experiment: str  # id
    cursors: Path
    deadline: float = math.inf  # of time.monotonic()
    runs: "list[Run]" = field(default_factory=list)
    children: dict[str, str] = field(default_factory=dict)  # our run id -> MLflow's, of those that were mirrored

    def in_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TrackingError("MLflow is not up to date yet: out of time, the next sync goes on")


def cursor_of(target: Target, run: "Run") -> Path:
    return target.cursors / f"{run.info.run_id}.json"


def send_rows(target: Target, file: Path, run: "Run", began: int | None, cursor: Path) -> None:
    """The rows of metrics.jsonl, or of another file of that form, each with a cursor of its own."""
    known = _known(cursor, began)
    rows, offset = rows_after(file, known["offset"] if known else 0)
    values = list(_values(rows))
    if known is None:
        values = _lacking(target, run, values)
    if values:
        cursor.unlink(missing_ok=True)
    for batch in _batches(values, METRICS_PER_BATCH):
        target.in_time()
        target.client.log_batch(run.info.run_id, metrics=batch)
    if began is not None and (known is None or rows):
        atomic.write_json(cursor, {"began": began, "offset": offset})


def _known(cursor: Path, began: int | None) -> dict[str, Any] | None:
    """Where the last sync of this very execution stopped; None, and MLflow is asked, where that is not known for sure."""
    try:
        known: dict[str, Any] = json.loads(cursor.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return known if known["began"] == began else None


def _values(rows: list[dict[str, Any]]) -> "Iterator[Metric]":
    from mlflow.entities import Metric

    for row in rows:
        for name, value in row.items():
            if name not in ("step", "images", "time") and isinstance(value, int | float):
                yield Metric(metric_name(name), stored(value), int(row["time"]), int(row["images"]))


def _lacking(target: Target, run: "Run", values: "list[Metric]") -> "list[Metric]":
    """Those of `values` that MLflow does not have; asks only for names of which it has any."""
    there = set()
    for name in sorted({value.key for value in values} & set(run.data.metrics)):
        target.in_time()
        history = target.client.get_metric_history(run.info.run_id, name)
        there |= {(value.key, value.step, value.timestamp) for value in history}
    return [value for value in values if (value.key, value.step, value.timestamp) not in there]


def complete(
    target: Target, run: "Run", *, tags: dict[str, str], params: dict[str, str], metrics: dict[str, float], at: int
) -> None:
    """Send the tags, parameters and single values (at the time `at`, ms) that differ from what `run` had."""
    from mlflow.entities import Metric, Param, RunTag

    data, identity = run.data, run.info.run_id
    named = {metric_name(name): stored(value) for name, value in metrics.items()}
    new_metrics = [Metric(name, value, at, 0) for name, value in named.items() if not _same(data.metrics, name, value)]
    new_tags = [RunTag(key, value) for key, value in tags.items() if data.tags.get(key) != value]
    new_params = [Param(key, value) for key, value in params.items() if key not in data.params]
    for batch in _batches(new_params, ITEMS_PER_BATCH):
        target.client.log_batch(identity, params=batch)
    for values in _batches(new_metrics, METRICS_PER_BATCH):
        target.client.log_batch(identity, metrics=values)
    if new_tags:
        target.client.log_batch(identity, tags=new_tags)


def upload(target: Target, run: "Run", folder: Path, name: str) -> None:
    """Send the files of `folder` as artifacts `name`/..., where they are other than those sent last."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    sums = [(file.relative_to(folder).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    digest = hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]
    tag = f"dinov2lab.{name}"
    if not files or run.data.tags.get(tag) == digest:
        return
    for file in files:
        target.in_time()
        place = (Path(name) / file.relative_to(folder)).parent.as_posix()
        target.client.log_artifact(run.info.run_id, str(file), place)
    target.client.set_tag(run.info.run_id, tag, digest)


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - len(CUT)] + CUT


def metric_name(name: str) -> str:
    """`name` in the letters that MLflow allows."""
    return re.sub(r"[^/\w.\- :]", "-", name)


def stored(value: float) -> float:
    """As MLflow stores it: infinities as the largest number."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(value))) if value == value else math.nan


def _same(had: Mapping[str, float], name: str, value: float) -> bool:
    return name in had and (had[name] == value or (math.isnan(had[name]) and math.isnan(value)))


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
