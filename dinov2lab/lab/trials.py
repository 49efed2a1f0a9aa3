"""What a trial has come to, from its runs' folders and from the search's storage."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from dinov2lab.lab.proposals import decoded
from dinov2lab.spec.points import runs_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult
from dinov2lab.store.trials import State, Trial

LEAST_STD, LEAST_RANK = 0.02, 1.2  # of features that are alive: see evaluation/health.py
STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def collapse(row: Mapping[str, Any]) -> str | None:
    """Why the features of a row of metrics.jsonl are dead, if they are."""
    std, rank = row.get("health/feature_std", math.inf), row.get("health/rankme", math.inf)
    if std < LEAST_STD:
        return f"collapsed: the features' standard deviation is {std:.3g} at {row['images']} images"
    if rank < LEAST_RANK:
        return f"collapsed: the features' effective rank is {rank:.3g} at {row['images']} images"
    return None


def measured(result: RunResult, metric: str) -> float:
    """A metric of a finished run; NaN where it has none. Costs are metrics too."""
    group, _, name = metric.partition("/")
    if group == "cost":
        return float(getattr(result.cost, name)) if result.cost else math.nan
    return result.metrics.get(metric, math.nan)


def means(values: Sequence[Sequence[float]]) -> list[float]:
    """Over the seeds, for each metric."""
    return [statistics.fmean(column) for column in zip(*values, strict=True)]


def spent(folders: Iterable[RunFolder]) -> tuple[int, float]:
    """(images seen, seconds of training) of some runs, wherever they have got to."""
    images, seconds = 0, 0.0
    for folder in folders:
        outcome = folder.outcome()
        if outcome and outcome.cost:
            images, seconds = images + outcome.cost.images, seconds + outcome.cost.seconds
        elif rows := [row for row in folder.rows() if row.get("speed/images_per_second")]:
            steps = zip((0, *(row["images"] for row in rows)), rows, strict=False)
            images += rows[-1]["images"]
            seconds += sum((row["images"] - before) / row["speed/images_per_second"] for before, row in steps)
    return images, seconds


def record_of(frozen: FrozenTrial, search: SearchSpec) -> Trial:
    """The storage's trial in our words."""
    told = frozen.user_attrs
    images, seconds = told.get("spent", (0, 0.0))
    return Trial(
        number=frozen.number,
        state="pruned" if told.get("stopped") else STATES[frozen.state],
        point={key: decoded(search.space[key], frozen.params[key]) for key in search.space if key in frozen.params},
        runs=tuple(told.get("runs", ())),
        values=tuple(frozen.values) if frozen.values else None,
        looks=tuple(sorted(frozen.intermediate_values.items())),
        origin=told.get("origin", "sampled"),
        parent=told.get("parent"),
        source=told.get("source"),
        reason=told.get("reason"),
        images=images,
        seconds=seconds,
        began=frozen.datetime_start.timestamp() if frozen.datetime_start else None,
        ended=frozen.datetime_complete.timestamp() if frozen.datetime_complete else None,
    )


def points_asked(trials: Iterable[Trial]) -> int:
    """Points that count against the budget: a promotion goes on with one, an earlier run was paid for elsewhere."""
    return sum(trial.origin in ("sampled", "enqueued", "transferred") for trial in trials)


def within_budget(search: SearchSpec, trials: Iterable[Trial], workspace: Workspace) -> bool:
    """Whether images and hours have room for more. What is running counts as if it went to its end."""
    if search.budget.images is None and search.budget.hours is None:
        return True
    images, seconds = dict[tuple[str, ...], int](), dict[tuple[str, ...], float]()
    for trial in trials:
        if trial.origin == "earlier":
            continue
        seen, took = trial.images, trial.seconds
        if trial.state == "running":
            planned = runs_at(search, trial.point)
            seen = sum(each.spec.optim.steps * each.spec.optim.batch for each in planned)
            took = spent(workspace.run(each.run) for each in planned)[1]
        images[trial.runs] = max(seen, images.get(trial.runs, 0))
        seconds[trial.runs] = max(took, seconds.get(trial.runs, 0.0))
    budget = search.budget
    return (budget.images is None or sum(images.values()) < budget.images) and (
        budget.hours is None or sum(seconds.values()) < budget.hours * 3600
    )
