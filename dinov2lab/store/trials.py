"""The trials of a search as the light commands and the report read them: searches/NAME/trials.json. Imports no optuna.

The truth is the search's storage; this file is written anew from it whenever a trial begins or ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from dinov2lab.store import atomic
from dinov2lab.store.result import Record

State = Literal["running", "complete", "pruned", "failed"]
Origin = Literal["sampled", "enqueued", "promoted", "earlier"]


class Trial(Record):
    """One point. `values` in the order of the search's metrics; of a pruned trial, what it had when it was stopped."""

    number: int
    state: State
    point: dict[str, Any]
    runs: tuple[str, ...] = ()  # ids, one for each seed
    values: tuple[float, ...] | None = None
    looks: tuple[tuple[int, float], ...] = ()  # (images or place of the seed, value) as the pruner saw them
    origin: Origin = "sampled"
    parent: int | None = None  # the pruned trial whose run it goes on with
    source: str | None = None  # the search or study that an earlier point is from
    reason: str | None = None  # why it failed or was stopped
    images: int = 0  # seen in training by its runs
    seconds: float = 0.0
    began: float | None = None  # seconds since the epoch
    ended: float | None = None


_TRIALS = TypeAdapter(tuple[Trial, ...])


def read_trials(folder: Path) -> tuple[Trial, ...]:
    file = folder / "trials.json"
    return _TRIALS.validate_json(file.read_bytes()) if file.exists() else ()


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    atomic.write(folder / "trials.json", lambda file: file.write_bytes(_TRIALS.dump_json(tuple(trials))))
