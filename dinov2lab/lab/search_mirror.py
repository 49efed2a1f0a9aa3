"""A search in MLflow: one experiment and one parent run for the search, a child run for each run of its trials.

A child carries the trial's number, state and values as tags; the looks that the pruner saw are its history of val, by images
seen. A run that several trials went on with is one child. All else is as for a study (tracking.py).
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dinov2lab.lab.mirror import mirror_run
from dinov2lab.lab.sending import TAG_LENGTH, Target, complete, cut, upload
from dinov2lab.lab.tracking import line_of, mirroring, noting, open_parent
from dinov2lab.spec.points import runs_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Cell
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, best_trials, read_trials


def stored(workspace: Workspace, name: str | None = None) -> list[SearchSpec]:
    """The searches that ran in the workspace, or the one by that name, if it did."""
    files = sorted(workspace.searches.glob("*/search.json"))
    return [SearchSpec.model_validate_json(file.read_bytes()) for file in files if name in (None, file.parent.name)]


def sync(search: SearchSpec, workspace: Workspace, report: Path) -> None:
    """Bring MLflow up to what is on disk. Raises TrackingError where MLflow fails, ValueError for unreadable files."""
    _sync(search, workspace, report, seconds=math.inf, wait=True)


def try_sync(search: SearchSpec, workspace: Workspace, report: Path, *, seconds: float = 20) -> str | None:
    """`sync` for a caller who must go on; one line on what is not mirrored yet, and why."""
    try:
        _sync(search, workspace, report, seconds=seconds, wait=False)
    except Exception as error:  # whatever MLflow and its libraries raise: a mirror never costs a run
        return line_of(error)
    return None


def _sync(search: SearchSpec, workspace: Workspace, report: Path, *, seconds: float, wait: bool) -> None:
    problems: list[str] = []
    trials = read_trials(workspace.search(search.name))
    with mirroring(workspace, wait=wait, seconds=seconds) as target:
        parent = open_parent(target, search, workspace)
        for runs in dict.fromkeys(trial.runs for trial in trials if trial.runs):
            sharing = [trial for trial in trials if trial.runs == runs]
            _mirror_trials(target, search, parent.info.run_id, sharing, workspace, problems)
        with noting(report, problems):
            best = best_trials(search, trials)
            values = (
                dict(zip(search.metrics, best[0].values or (), strict=False))
                if len(search.metrics) == 1 and best
                else {}
            )
            metrics = {f"best/{name}": value for name, value in values.items()}
            complete(target, parent, tags=_summary(search, trials, best), params={}, metrics=metrics, at=0)
            upload(target, parent, report, "report")
            over = not any(trial.state == "running" for trial in trials)
            if over and parent.info.status != "FINISHED":
                target.client.set_terminated(parent.info.run_id, "FINISHED")
            elif not over and parent.info.status != "RUNNING":
                target.client.update_run(parent.info.run_id, status="RUNNING")
    if problems:
        raise ValueError("\n".join(problems))


def _mirror_trials(
    target: Target, search: SearchSpec, parent: str, sharing: Sequence[Trial], workspace: Workspace, problems: list[str]
) -> None:
    """The trials that share their runs, told by the last of them."""
    last = sharing[-1]
    tags = {
        "trial": ", ".join(str(trial.number) for trial in sharing),
        "trial.state": last.state,
        "trial.origin": last.origin,
        "trial.reason": last.reason or "",
        **{f"trial.{name}": f"{value:.6g}" for name, value in zip(search.metrics, last.values or (), strict=False)},
    }
    for planned in runs_at(search, last.point):
        cell = Cell(f"trial {last.number}", planned.spec.seed, planned.run, planned.spec)
        with noting(workspace.run(planned.run).path, problems):
            mirror_run(
                target, search.name, parent, cell, workspace, also={k: cut(v, TAG_LENGTH) for k, v in tags.items()}
            )


def _summary(search: SearchSpec, trials: Sequence[Trial], best: Sequence[Trial]) -> dict[str, str]:
    counts = Counter(trial.state for trial in trials)
    note = [search.question, f"\nbest so far, unconfirmed: trial {best[0].number}, {best[0].point}" if best else ""]
    return {
        "mlflow.note.content": cut("\n".join(note), TAG_LENGTH),
        "dinov2lab.trials": ", ".join(f"{count} {state}" for state, count in sorted(counts.items())),
    }
