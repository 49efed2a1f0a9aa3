"""Warm starts: finished runs of earlier searches and studies that are points of this search, already paid for; and the best
points of searches of another base, such as a smaller model, which are only guesses here, and are tried first."""

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState, create_trial

from dinov2lab.lab.proposals import distribution, encoded
from dinov2lab.lab.trials import measured
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.points import point_of
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import expand
from dinov2lab.store import studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.trials import best_trials, has_run, read_trials, stored_search

HANDED_ON = 3  # points of a search of another base


class Fitting(NamedTuple):
    """How many of a search's or a study's finished runs are points here; the others differ elsewhere, or lie outside."""

    source: str
    runs: int
    fit: int


def refuse_unknown(search: SearchSpec, workspace: Workspace) -> None:
    """Raise ValueError where a warm start is from nowhere, before anything is made."""
    for source in search.earlier:
        next(_finished(source, workspace), None)
    list(handed_on(search, workspace))


def add_earlier(study: optuna.Study, search: SearchSpec, workspace: Workspace) -> list[Fitting]:
    """Tell the storage of them, each once; runs that differ in nothing but their seed are one point, with their mean."""
    told = {tuple(each.user_attrs.get("runs", ())) for each in study.get_trials(deepcopy=False)}
    found = []
    for source in search.earlier:
        groups, runs = dict[str, list[tuple[dict[str, Any], RunFolder]]](), 0
        for folder in _finished(source, workspace):
            runs += 1
            if (point := point_of(search, folder.read_spec())) is not None:
                groups.setdefault(content_id(point), []).append((point, folder))
        for group in groups.values():
            ids = tuple(folder.path.name for _, folder in group)
            if ids not in told:
                _add(study, search, source, group[0][0], [folder for _, folder in group])
                told.add(ids)
        found.append(Fitting(source, runs, sum(map(len, groups.values()))))
    return found


def handed_on(search: SearchSpec, workspace: Workspace) -> Iterator[tuple[str, dict[str, Any]]]:
    """(its search, point) of the best trials of searches of another base: the fields that are searched here too, where the
    value lies inside. Raises ValueError for a name that no search ran by here, or that has nothing to give.
    """
    for source in search.transfer:
        if not has_run(source, workspace):
            known = sorted(file.parent.name for file in workspace.searches.glob("*/search.json"))
            raise ValueError(f"transfer: no search {source} has run in {workspace.path}{did_you_mean(source, known)}")
        other = stored_search(source, workspace)
        if other.metrics != search.metrics:
            raise ValueError(f"transfer: {source} is after {', '.join(other.metrics)}, not {', '.join(search.metrics)}")
        best = [
            _inside(search, trial.point)
            for trial in best_trials(other, read_trials(workspace.search(source)))[:HANDED_ON]
        ]
        if not any(best):
            raise ValueError(f"transfer: none of the best trials of {source} has a value that lies in this space")
        yield from ((source, point) for point in best if point)


def _inside(search: SearchSpec, point: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in point.items() if key in search.space and search.space[key].holds(value)}


def _finished(source: str, workspace: Workspace) -> Iterator[RunFolder]:
    """The finished runs of a search or a study by that name."""
    trials, one = read_trials(workspace.search(source)), studies.stored(source, workspace)
    if not trials and one is None:
        raise ValueError(f"earlier: no search and no study by the name of {source} has run in {workspace.path}")
    runs = [run for trial in trials for run in trial.runs] + [cell.run for cell in (expand(one) if one else ())]
    folders = [workspace.run(run) for run in dict.fromkeys(runs)]
    yield from (folder for folder in folders if folder.result.exists() and folder.spec.exists())


def _add(study: optuna.Study, search: SearchSpec, source: str, point: dict[str, Any], folders: list[RunFolder]) -> None:
    outcomes = [outcome for folder in folders if (outcome := folder.outcome())]
    values = [statistics.fmean(measured(outcome, metric) for outcome in outcomes) for metric in search.metrics]
    metric, single = next(iter(search.metrics)), len(folders) == 1 and len(search.metrics) == 1
    looks = {row["images"]: row[metric] for folder in folders for row in folder.rows() if single and metric in row}
    if any(value != value for value in values):
        return  # it lacks a metric
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            values=values,
            params={key: encoded(value) for key, value in point.items()},
            distributions={key: distribution(search.space[key]) for key in point},
            intermediate_values=looks,
            user_attrs={"origin": "earlier", "source": source, "runs": [folder.path.name for folder in folders]},
        )
    )
