"""The rule that a study decides by: the statistics that it calls, and what a reader is told of it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from dinov2lab.report import tuned, words
from dinov2lab.report.resampling import iqm_difference, median_difference, sign_flip_difference
from dinov2lab.report.statistics import (
    Difference,
    Scale,
    blocked_differences,
    blocked_scale,
    paired_difference,
    paired_scale,
    seeds_needed,
    unjudged,
)
from dinov2lab.report.tables import Run, finals
from dinov2lab.spec.study import Study
from dinov2lab.store.studies import Changed


class Compared(NamedTuple):
    """An arm against the baseline over the seeds that the rule can use."""

    difference: Difference
    seeds: dict[int, float]  # seed -> arm minus baseline


class Rule(NamedTuple):
    """How an arm is compared with the baseline, and what a report says of that."""

    compare: Callable[[Sequence[float], Sequence[float], float, int], Difference] | None  # none: all arms at once
    interval: str
    together: str  # what makes the intervals hold together
    assumes: str
    of: str = "mean"  # of the differences


RULES = {
    "paired_t": Rule(paired_difference, "t interval", "Bonferroni", "each difference has a spread of its own"),
    "blocked": Rule(
        None,
        "t interval over the spread that all arms share",
        "Dunnett",
        "seeds scatter alike in all arms: their spread is estimated once, from all of them",
    ),
    "sign_flip": Rule(
        sign_flip_difference,
        "sign-flip interval",
        "Bonferroni",
        "differences lie symmetrically about their middle",
    ),
    "median": Rule(
        median_difference,
        "sign-test interval",
        "Bonferroni",
        "seeds are drawn independently, and nothing else",
        "median",
    ),
    "iqm": Rule(
        iqm_difference,
        "bootstrap interval",
        "Bonferroni",
        "seeds that are drawn again scatter as new ones would",
        "interquartile mean",
    ),
}


def replaced(change: Changed) -> str:
    """A sentence on a rule that was changed after runs had finished."""
    when, rule = datetime.fromtimestamp(change.when, UTC), change.decide
    return (
        f"The rule of this study was changed on {when:%Y-%m-%d %H:%M} UTC, when {words.plural(change.finished, 'run')} had "
        f"finished: before, it decided by {rule.rule} on {words.title(rule.metric)} against {change.baseline}, at alpha "
        f"{rule.alpha:g} over {words.plural(rule.looks, 'look')}"
        + (f", margin {rule.margin:g}" if rule.margin else "")
        + (", on added seeds alone" if rule.fresh else "")
        + (f", and its arms were tuned with {tuned.allowed(change.budget)}" if change.budget else "")
        + (" for each seed" if change.per == "seed" else "")
    )


def looks(study: Study) -> str:
    """How the looks that the study may take at its results are paid for; nothing where it takes one."""
    count = study.decide.looks - study.decide.fresh
    which = f"this is look {len(study.looked) + 1}"
    if study.looked:
        which += f"; earlier ones at {words.listed([str(seeds) for seeds in study.looked])} seeds"
    if study.decide.fresh:
        shared = f", at {words.level(study.alpha)} in each of {count} such looks" if count > 1 else ""
        return f", on the seeds that are added after the first look alone, which explores{shared} ({which})"
    return f", also over the {count} looks that the study may take at its results ({which})" if count > 1 else ""


def compared(study: Study, runs: tuple[Run, ...], metric: str) -> dict[str, Compared]:
    """Every arm but the baseline."""
    values = {arm.name: finals(runs, arm.name, metric) for arm in study.arms}
    others = [name for name in values if name != study.baseline]
    compare = RULES[study.decide.rule].compare
    if compare is None:
        return _blocked(study, values, others)
    found = {}
    for name in others:
        seeds = [seed for seed in study.tested if seed in values[name] and seed in values[study.baseline]]
        arm, base = ([values[each][seed] for seed in seeds] for each in (name, study.baseline))
        found[name] = Compared(compare(arm, base, study.alpha, study.comparisons), _by_seed(seeds, arm, base))
    return found


def _blocked(study: Study, values: dict[str, dict[int, float]], others: Sequence[str]) -> dict[str, Compared]:
    """A block is a seed that every arm with any value has; an arm without one is compared with nothing."""
    present = [name for name in others if values[name]]
    whole = [seed for seed in study.tested if all(seed in values[name] for name in (study.baseline, *present))]
    rows = {name: [values[name][seed] for seed in whole] for name in (study.baseline, *present)}
    base = rows.pop(study.baseline)
    found = blocked_differences(list(rows.values()), base, study.alpha, study.comparisons) if rows else ()
    table = {name: Compared(each, _by_seed(whole, rows[name], base)) for name, each in zip(rows, found, strict=True)}
    return table | {name: Compared(unjudged(np.empty(0)), {}) for name in others if name not in present}


def needed(study: Study, difference: Difference) -> int | None:
    """How many seeds a difference as large as this one would take to be found four times in five, at the same spread.

    None where that cannot be said: without a spread, or beyond MOST_SEEDS.
    """
    if not difference.sd or not difference.estimate:
        return None

    def scale(n: int) -> Scale:
        if study.decide.rule == "blocked":
            return blocked_scale(len(study.arms), n, study.alpha, study.comparisons)
        return paired_scale(n, study.alpha, study.comparisons)

    return seeds_needed(abs(difference.estimate) / difference.sd, difference.n, scale)


def _by_seed(seeds: Sequence[int], ours: Sequence[float], theirs: Sequence[float]) -> dict[int, float]:
    return {seed: arm - base for seed, arm, base in zip(seeds, ours, theirs, strict=True)}
