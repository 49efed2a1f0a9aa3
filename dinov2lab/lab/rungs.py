"""Successive halving at rungs counted in images: who stops, who is promoted later. Pure functions of the trials' looks.

The asynchronous rule (ASHA, Li et al. 2020, arXiv 1810.05934): at each rung the best one in `reduction` of all runs that have
reached it so far goes on. Hyperband (Li et al. 2018, arXiv 1603.06560) spreads the trials over brackets that begin to halve
at a later rung each, so that slow starters have their chance. A run is counted once, however many trials went on with it.
"""

import zlib
from collections.abc import Mapping, Sequence
from math import ceil

from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.trials import Trial


def reached(trial: Trial, levels: Sequence[int]) -> dict[int, float]:
    """Place of each rung that the trial has reached -> its first look from there on."""
    found = dict[int, float]()
    for images, value in sorted(trial.looks):
        for place, level in enumerate(levels):
            if images >= level and place not in found:
                found[place] = value
    return found


def bracket(search: SearchSpec, number: int) -> int:
    """The rung at which trial `number` begins to be halved, drawn by its number in Hyperband's proportions."""
    count = len(search.levels) if search.pruner.kind == "hyperband" else 1
    shares = [ceil(count * search.pruner.reduction ** (count - 1 - place) / (count - place)) for place in range(count)]
    drawn = zlib.crc32(f"{search.name}/{number}".encode()) % max(1, sum(shares))
    for place, share in enumerate(shares):
        if drawn < share:
            return place
        drawn -= share
    return 0


def stops_at(trial: Trial, trials: Mapping[int, Trial], search: SearchSpec) -> int | None:
    """The images of the first rung that the trial does not pass, given all `trials` as they are; None where it goes on.

    A promoted trial has passed the rungs of its parent.
    """
    levels, first = search.levels, bracket(search, _root(trial, trials))
    passed = max(reached(trials[trial.parent], levels), default=-1) if trial.parent is not None else -1
    for place, value in sorted(reached(trial, levels).items()):
        if place >= first and place > passed and value not in _best(trial, place, trials, search, at_least=1):
            return levels[place]
    return None


def promotable(trials: Mapping[int, Trial], search: SearchSpec) -> Trial | None:
    """A stopped trial that by now is among the best of its rung, the furthest first; None where there is none."""
    levels = search.levels
    going = {run for trial in trials.values() if trial.state != "pruned" for run in trial.runs}
    parents = {trial.parent for trial in trials.values()}
    stopped = [
        (max(reached(trial, levels), default=-1), trial)
        for trial in trials.values()
        if trial.state == "pruned" and trial.number not in parents and not going & set(trial.runs)
    ]
    for place, trial in sorted(stopped, key=lambda each: (-each[0], each[1].number)):
        if place >= 0 and reached(trial, levels)[place] in _best(trial, place, trials, search, at_least=0):
            return trial
    return None


def _best(trial: Trial, place: int, trials: Mapping[int, Trial], search: SearchSpec, *, at_least: int) -> list[float]:
    """The best values at a rung in the trial's bracket: one in `reduction` of the runs there, but `at_least` so many."""
    own, levels = bracket(search, _root(trial, trials)), search.levels
    values = dict[tuple[str, ...], float]()
    for each in (*trials.values(), trial):
        if bracket(search, _root(each, trials)) == own and place in (seen := reached(each, levels)):
            values[each.runs] = seen[place]
    kept = max(at_least, len(values) // search.pruner.reduction)
    maximise = next(iter(search.metrics.values())) == "maximize"
    return sorted(values.values(), reverse=maximise)[:kept]


def _root(trial: Trial, trials: Mapping[int, Trial]) -> int:
    while trial.parent is not None:
        trial = trials[trial.parent]
    return trial.number
