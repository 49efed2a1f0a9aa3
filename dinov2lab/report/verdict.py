"""From intervals to words: a claim is made on the metric that the study decides on, by the rule written before it ran."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dinov2lab.report import words
from dinov2lab.report.statistics import Claim, Difference, Mean, mean_of, paired_difference, separates
from dinov2lab.report.tables import Run, finals, labelled, mixtures
from dinov2lab.spec.study import Study

NOT_QUALITY = ("health/", "loss/", "optim/", "teacher/", "student/", "gradient/", "speed/")


@dataclass(frozen=True)
class Row:
    """One arm against the baseline on one metric, in the metric's own unit: a row of verdict.json."""

    metric: str
    arm: str
    baseline: str
    difference: float | None
    low: float | None
    high: float | None
    claim: Claim
    words: str


@dataclass(frozen=True)
class Judged:
    """A row with what it rests on."""

    row: Row
    difference: Difference
    seeds: dict[int, float]  # seed -> paired difference


@dataclass(frozen=True)
class ArmRow:
    """One arm on one metric: its seeds, its mean, and its comparison, which the baseline does not have."""

    arm: str
    mean: Mean
    values: tuple[tuple[int, str], ...]  # (seed, value or what became of it)
    judged: Judged | None


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


def judge(study: Study, runs: tuple[Run, ...], metric: str, *, pool: bool) -> tuple[Judged, ...]:
    """Every arm but the baseline against the baseline, with intervals that hold together."""
    return tuple(_judge(study, runs, metric, arm.name, pool) for arm in study.arms if arm.name != study.baseline)


def _judge(study: Study, runs: tuple[Run, ...], metric: str, arm: str, pool: bool) -> Judged:
    ours, theirs = finals(runs, arm, metric), finals(runs, study.baseline, metric)
    common = [seed for seed in study.seeds if seed in ours and seed in theirs]
    difference = paired_difference(
        [ours[seed] for seed in common],
        [theirs[seed] for seed in common],
        study.decide.alpha,
        max(1, len(study.arms) - 1),
    )
    refusal = _refusal(study, runs, metric, arm, difference, pool)
    claim = "none" if refusal else separates(difference, higher_is_better=words.higher_is_better(metric))
    text = refusal or _claimed(metric, claim, difference) + _left_out(study, runs, arm)
    low, high = difference.interval or (None, None)
    row = Row(metric, arm, study.baseline, difference.mean, low, high, claim, text)
    return Judged(row, difference, {seed: ours[seed] - theirs[seed] for seed in common})


def _refusal(
    study: Study, runs: tuple[Run, ...], metric: str, arm: str, difference: Difference, pool: bool
) -> str | None:
    """Why no claim is made, or None."""
    here = [run for run in runs if run.arm in (arm, study.baseline)]
    waiting = [run for run in here if run.status in ("unfinished", "not run")]
    if not difference.n:
        if any(run.finals for run in here) and not any(metric in run.finals for run in here):
            return "no claim: these runs have no such value" + ("" if labelled(runs) else ", there are no labels")
        return (
            "no claim: no seed has finished in both arms yet" if waiting else "no claim: no seed finished in both arms"
        )
    measured = f"{words.signed(metric, difference.mean)}{' points' if words.is_accuracy(metric) else ''}"
    if difference.mean is None:
        return "no claim: a run ended with a value that is no number"
    if (mixed := mixtures(runs)) and not pool:
        return f"no claim: {'; '.join(mixed)}"
    if difference.n == 1:
        return f"no claim: {measured} in one seed, and one seed cannot tell a difference from chance"
    if metric.startswith(NOT_QUALITY):
        return f"no claim: {measured}, but this is no measure of quality"
    if metric != study.decide.metric:
        return f"explored only: {measured}{_reach(metric, difference)}; the study decides on {study.decide.metric}"
    if waiting:
        missing = words.plural(len(waiting), "planned run")
        return f"no claim yet: {measured}{_reach(metric, difference)}, with {missing} of the two arms still to come"
    if difference.exact and difference.mean:
        return f"no claim: {measured} in each of {difference.n} seeds alike, which leaves no spread to judge it by"
    return None


def _reach(metric: str, difference: Difference) -> str:
    return f" ({words.signed_span(metric, difference.interval)})" if difference.interval else ""


def _claimed(metric: str, claim: Claim, difference: Difference) -> str:
    seeds = words.plural(difference.n, "seed")
    if difference.exact:
        return f"not separable: the values are equal in each of {seeds}"
    reach = words.signed_span(metric, difference.interval)
    if claim in ("better", "worse"):
        size = words.points(metric, abs(difference.mean or 0))
        return f"{claim} by {size} ({reach}; {seeds})"
    least = words.points(metric, difference.resolvable)
    return f"not separable: with {seeds} the smallest difference that could have been resolved is {least}"


def _left_out(study: Study, runs: Iterable[Run], arm: str) -> str:
    failed = [
        f"{run.arm} seed {run.seed}" for run in runs if run.arm in (arm, study.baseline) and run.status == "failed"
    ]
    return f"; left out as failed: {words.listed(failed)}" if failed else ""


def arm_rows(study: Study, runs: tuple[Run, ...], metric: str, *, pool: bool) -> tuple[ArmRow, ...]:
    judged = {each.row.arm: each for each in judge(study, runs, metric, pool=pool)}

    def row(arm: str) -> ArmRow:
        ours = finals(runs, arm, metric)
        status = {run.seed: run.status for run in runs if run.arm == arm}
        shown = (
            (seed, words.value(metric, ours[seed]) if seed in ours else _absent(status[seed])) for seed in study.seeds
        )
        return ArmRow(arm, mean_of(list(ours.values()), study.decide.alpha), tuple(shown), judged.get(arm))

    return tuple(row(arm.name) for arm in study.arms)


def _absent(status: str) -> str:
    return "no value" if status == "finished" else status


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


def headline(study: Study, runs: tuple[Run, ...], judged: tuple[Judged, ...]) -> tuple[str, ...]:
    """The answer, one or two sentences, for the metric that decides."""
    metric, done = study.decide.metric, [run for run in runs if run.status == "finished"]
    if not done:
        return (f"No answer yet: none of {words.plural(len(runs), 'planned run')} has finished.",)
    if not labelled(runs):
        return ("No claim on quality is possible: these images have no labels. What follows is health and cost only.",)
    if not judged:
        return ("There is one arm alone, so there is nothing to compare.",)
    where = f"On {words.title(metric)}"
    claims = [each.row for each in judged if each.row.claim in ("better", "worse")]
    even = [each for each in judged if each.row.claim == "not separable"]
    silent = [each.row for each in judged if each.row.claim == "none"]
    parts = [f"{row.arm} is {row.words}" for row in claims]
    sentences = [f"{where}, compared with {study.baseline}: {'; '.join(parts)}."] if parts else []
    if even:
        sentences.append(("" if parts else f"{where}, compared with {study.baseline}: ") + _even(metric, even) + ".")
    reasons: dict[str, list[str]] = {}
    for row in silent:
        reasons.setdefault(row.words, []).append(row.arm)
    sentences += [f"{words.listed(arms)}: {reason}." for reason, arms in reasons.items()]
    return tuple(sentences)


def _even(metric: str, even: list[Judged]) -> str:
    """Several arms that cannot be told from the baseline, in one clause, with what could have been told."""
    shown = [f"{each.row.arm} ({words.signed(metric, each.difference.mean)})" for each in even]
    least = [each.difference.resolvable for each in even if each.difference.resolvable is not None]
    seeds = words.plural(min(each.difference.n for each in even), "seed")
    text = f"{words.listed(shown)} {'is' if len(shown) == 1 else 'are'} not separable from it"
    if not least:
        return text
    size = (
        words.points(metric, max(least))
        if len(least) == 1
        else f"{words.value(metric, min(least))} to {words.points(metric, max(least))}"
    )
    many = "" if len(least) == 1 else ", by arm,"
    return f"{text}: with {seeds} the smallest difference that could have been resolved is{many} {size}"


def learnt(found: tuple[Gain, ...]) -> str | None:
    """Whether the trained arms beat the references beyond the interval, said in one sentence."""
    if not found:
        return None
    parts = []
    for name in dict.fromkeys(gain.reference for gain in found):
        arms = [gain for gain in found if gain.reference == name]
        beating = [gain.arm for gain in arms if gain.beats]
        if len(beating) == len(arms):
            parts.append(f"every trained arm beats {name} beyond its interval")
        elif beating:
            parts.append(
                f"only {words.listed(beating)} of {len(arms)} arms beat{'s' if len(beating) == 1 else ''} {name}"
            )
        else:
            parts.append(f"no trained arm beats {name} beyond its interval, so nothing here shows that they learnt")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."
