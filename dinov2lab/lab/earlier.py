"""Warm starts: finished runs of earlier searches and studies that are points of this search, already paid for."""

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState, create_trial

from dinov2lab.lab.proposals import distribution, encoded
from dinov2lab.lab.trials import measured
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.points import point_of
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import expand
from dinov2lab.store import studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.trials import read_trials


class Fitting(NamedTuple):
    """How many of a search's or a study's finished runs are points here; the others differ elsewhere, or lie outside."""

    source: str
    runs: int
    fit: int


def add_earlier(study: optuna.Study, search: SearchSpec, workspace: Workspace) -> list[Fitting]:
    """Tell the storage of them, each once; runs that differ in nothing but their seed are one point, with their mean.

    Raises ValueError for a name that nothing ran by here.
    """
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
