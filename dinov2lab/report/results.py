"""results.csv and results.parquet: every number that a report rests on, one value a row, under its run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dinov2lab.report.tables import Run, every
from dinov2lab.spec.study import Study
from dinov2lab.store import atomic

ROWS = 50  # of a run's metrics.jsonl that the table tells of, besides its looks at val
HISTORY = 20_000  # of a study's, so that a table can be kept beside its report
NOT_METRICS = ("step", "images", "time")

NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {"study": NAME, "arm": NAME, "seed": pa.int64(), "run": NAME, "metric": NAME, "step": pa.int64()}
    | {"value": pa.float64()}
)

Measured = tuple[str, int, float]  # metric, step, value


def write_results(study: Study, runs: tuple[Run, ...], folder: Path) -> None:
    table = results_table(study, runs)
    atomic.write(folder / "results.csv", lambda file: pa.csv.write_csv(table, file))
    atomic.write(folder / "results.parquet", lambda file: pa.parquet.write_table(table, file))


def results_table(study: Study, runs: tuple[Run, ...]) -> pa.Table:
    """Final metrics, and the costs under cost/, stand at the run's last step.

    The history is thinned to about ROWS rows and the looks of each run, and to some HISTORY of each for the study.
    """
    share = max(2, HISTORY // len(runs))
    rows = [(study.name, run.arm, run.seed, run.id, *each) for run in runs for each in _measured(run, share)]
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def _measured(run: Run, share: int) -> Iterable[Measured]:
    last = run.spec.optim.steps
    finals = dict(run.finals)
    if finals and run.outcome and run.outcome.cost:
        finals |= {f"cost/{name}": float(number) for name, number in run.outcome.cost.model_dump().items()}
        finals |= {"cost/parameters": float(run.outcome.parameters)} if run.outcome.parameters else {}
        finals |= {f"cost/{part}_kwh": spent for part, spent in run.energy.items()}
    for row in thinned(run.rows, share):
        for metric, number in row.items():
            if metric not in NOT_METRICS and not (row["step"] >= last and metric in finals):
                yield metric, row["step"], number
    for metric, number in finals.items():
        yield metric, last, number


def thinned(rows: Sequence[dict[str, Any]], share: int) -> list[dict[str, Any]]:
    """At most ROWS of a run's rows, every look at val, as long as neither are more than the run's share, and the last row."""
    looks = [place for place, row in enumerate(rows) if any(name.startswith("val/") for name in row)]
    kept = {*every(range(len(rows)), min(ROWS, share)), *every(looks, share), *range(len(rows))[-1:]}
    return [rows[place] for place in sorted(kept)]
