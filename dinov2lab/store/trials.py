"""The trials of a search as the light commands and the report read them: searches/NAME/trials.json. Imports no optuna.

The truth is the search's storage; this file is written anew from it whenever a trial begins or ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from dinov2lab.spec.search import SearchSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import Record

State = Literal["running", "complete", "pruned", "failed"]
Origin = Literal["sampled", "enqueued", "promoted", "earlier", "transferred"]


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
    source: str | None = None  # the search or study that an earlier or a transferred point is from
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


def as_stored(search: SearchSpec) -> str:
    """The text of searches/NAME/search.json."""
    return search.model_dump_json(indent=1) + "\n"


def has_run(name: str, workspace: Workspace) -> bool:
    """Whether a search by that name ever ran here."""
    return (workspace.search(name) / "search.json").exists()


def stored_search(name: str, workspace: Workspace) -> SearchSpec:
    """As it ran last. Raises FileNotFoundError where it never did."""
    return SearchSpec.model_validate_json((workspace.search(name) / "search.json").read_bytes())


def is_concluded(search: SearchSpec, folder: Path) -> bool:
    """Whether this very search, its budget included, has come to its end."""
    file = folder / "concluded"
    return file.exists() and file.read_text(encoding="utf-8") == as_stored(search)


def best_trials(search: SearchSpec, trials: Sequence[Trial]) -> list[Trial]:
    """The complete ones, best first; with several metrics, those that no other beats in one without losing in another.

    Of trials that share their runs, the first.
    """
    signs = [1 if direction == "maximize" else -1 for direction in search.metrics.values()]
    runs = dict[tuple[str, ...], Trial]()
    for trial in trials:
        if trial.state == "complete" and trial.values:
            runs.setdefault(trial.runs, trial)
    scores = {trial.number: _scores(trial, signs) for trial in runs.values()}
    front = [
        trial for trial in runs.values() if not any(_beats(each, scores[trial.number]) for each in scores.values())
    ]
    return sorted(runs.values() if len(signs) == 1 else front, key=lambda trial: -scores[trial.number][0])


def _scores(trial: Trial, signs: Sequence[int]) -> tuple[float, ...]:
    return tuple(sign * value for sign, value in zip(signs, trial.values or (), strict=True))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def once(trials: Sequence[Trial], what: Literal["images", "seconds"]) -> list[float]:
    """What each run took, however many trials went on with it; what was paid for elsewhere is not the search's."""
    spent = dict[tuple[str, ...], float]()
    for trial in trials:
        if trial.origin != "earlier":
            spent[trial.runs] = max(getattr(trial, what), spent.get(trial.runs, 0))
    return list(spent.values())
