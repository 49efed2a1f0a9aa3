"""What the evaluations give without any training, raw pixels and the untrained network, and what training added."""

import math
from dataclasses import dataclass

from dinov2lab.report import words
from dinov2lab.report.statistics import Difference, Mean, mean_of, paired_difference, separates
from dinov2lab.report.tables import Run, finals
from dinov2lab.spec.study import Study


@dataclass(frozen=True)
class Reference:
    """A reference row: what these evaluations give without any training. Its arms share one value in every seed."""

    name: str
    arms: tuple[str, ...]
    everywhere: bool  # the same for all arms
    mean: Mean
    values: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Gain:
    """What a trained arm has over one reference, paired by run."""

    arm: str
    reference: str
    difference: Difference
    beats: bool


def references(study: Study, runs: tuple[Run, ...], metric: str) -> tuple[Reference, ...]:
    """Raw pixels and the untrained network on `metric`: one row for all arms that agree."""
    rows = []
    for prefix, name in words.REFERENCES.items():
        by_value: dict[tuple[tuple[int, float], ...], list[str]] = {}
        for arm in study.arms:
            if found := finals(runs, arm.name, f"{prefix}/{metric}"):
                _group(by_value, found).append(arm.name)
        for values, arms in by_value.items():
            shown = tuple((seed, words.value(metric, value)) for seed, value in values)
            mean = mean_of([value for _, value in values], study.decide.alpha)
            rows.append(Reference(name, tuple(arms), len(by_value) == 1, mean, shown))
    return tuple(rows)


def _group(by_value: dict[tuple[tuple[int, float], ...], list[str]], found: dict[int, float]) -> list[str]:
    """The arms that agree with `found` in all seeds they share; the group grows by the seeds that it lacked."""
    for values, arms in list(by_value.items()):
        known = dict(values)
        if all(math.isclose(known[seed], found[seed], abs_tol=1e-6) for seed in known.keys() & found.keys()):
            del by_value[values]
            by_value[tuple(sorted({**found, **known}.items()))] = arms
            return arms
    return by_value.setdefault(tuple(sorted(found.items())), [])


def gains(study: Study, runs: tuple[Run, ...], metric: str) -> tuple[Gain, ...]:
    """Each arm against each reference, by run; the intervals of one reference hold together over all arms."""
    table = []
    for prefix, name in words.REFERENCES.items():
        for arm in study.arms:
            ours, theirs = finals(runs, arm.name, metric), finals(runs, arm.name, f"{prefix}/{metric}")
            common = sorted(ours.keys() & theirs.keys())
            if common:
                pair = [ours[seed] for seed in common], [theirs[seed] for seed in common]
                difference = paired_difference(*pair, study.decide.alpha, len(study.arms))
                beats = separates(difference, higher_is_better=words.higher_is_better(metric)) == "better"
                table.append(Gain(arm.name, name, difference, beats))
    return tuple(table)


def learnt(study: Study, found: tuple[Gain, ...]) -> str | None:
    """Whether the trained arms beat the references beyond the interval, said in one sentence."""
    parts = [_over(study, name, found) for name in dict.fromkeys(gain.reference for gain in found)]
    text = "; ".join(parts)
    return f"{words.capital(text)}." if parts else None


def _over(study: Study, name: str, found: tuple[Gain, ...]) -> str:
    arms = [gain for gain in found if gain.reference == name]
    beating = [gain.arm for gain in arms if gain.beats]
    if all(gain.difference.n < 2 for gain in arms):
        shown = [f"{gain.arm} {words.signed(study.decide.metric, gain.difference.estimate)}" for gain in arms]
        return f"over {name}, in one seed and so without an interval: {words.listed(shown)}"
    if len(beating) == len(arms):
        return f"every arm beats {name} beyond the interval"
    if beating:
        return f"of {len(arms)} arms only {words.listed(beating)} beat{'s' * (len(beating) == 1)} {name}"
    if name == words.REFERENCES["pixels"]:
        return f"no arm beats {name} beyond the interval, so none has shown features that are worth more than those"
    return f"no arm beats {name} beyond the interval, so nothing here shows that training taught anything"
