"""From intervals to words: claims are made on the metric that the study decides on, by the rule written beforehand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dinov2lab.report import words
from dinov2lab.report.confounds import confounds
from dinov2lab.report.rules import RULES, Compared, compared, needed
from dinov2lab.report.statistics import MOST_SEEDS, Claim, Difference, Mean, mean_of, separates
from dinov2lab.report.tables import Run, by_arm, finals, labelled, mixtures
from dinov2lab.spec.study import Study

NOT_QUALITY = ("health/", "loss/", "optim/", "teacher/", "student/", "gradient/", "speed/")
CLAIMED: tuple[Claim, ...] = ("better", "worse", "no worse")
MEASURED = 4  # arms that are not separable of which the answer tells one by one what was measured
ORDER: dict[Claim, int] = {
    "better": 0,
    "worse": 0,
    "no worse": 1,
    "not separable": 2,
    "none": 3,
}  # in which a verdict is told


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
    effect: float | None  # the difference in standard deviations of the paired differences, and the interval of that
    effect_low: float | None
    effect_high: float | None


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
class Guard:
    """What speaks against comparing a study's runs, whatever the metric."""

    unlike: dict[str, str]  # arm -> what it differs in from the baseline besides its factor
    mixed: tuple[str, ...]  # why the runs must not be compared with one another
    pool: bool  # they are compared all the same


def guard(study: Study, runs: tuple[Run, ...], *, pool: bool) -> Guard:
    return Guard(confounds(study, runs), mixtures(runs), pool)


def judge(study: Study, runs: tuple[Run, ...], metric: str, against: Guard) -> tuple[Judged, ...]:
    """Every arm but the baseline against the baseline, with intervals that hold together."""
    found = compared(study, runs, metric)
    return tuple(_judge(study, runs, metric, arm, found[arm], against) for arm in found)


def _judge(study: Study, runs: tuple[Run, ...], metric: str, arm: str, found: Compared, against: Guard) -> Judged:
    difference, unlike = found.difference, against.unlike.get(arm)
    refusal = _refusal(study, runs, metric, arm, difference, against)
    if unlike and study.decide.strict and not refusal:
        refusal = f"no claim: beside {words.listed(study.factor)} it differs in {unlike}, and the study is strict"
    claim: Claim = "none"
    if not refusal:
        higher = words.higher_is_better(metric)
        claim = separates(difference, higher_is_better=higher, margin=study.decide.margin)
    text = refusal or _claimed(study, metric, claim, difference) + _left_out(study, runs, metric, arm, found)
    if unlike and not refusal:
        text += f"; beside {words.listed(study.factor)} it differs in {unlike}"
    low, high = difference.interval or (None, None)
    effect = (difference.effect, *(difference.effect_interval or (None, None)))
    row = Row(metric, arm, study.baseline, difference.estimate, low, high, claim, text, *effect)
    return Judged(row, difference, found.seeds)


def _refusal(
    study: Study, runs: tuple[Run, ...], metric: str, arm: str, difference: Difference, against: Guard
) -> str | None:
    """Why no claim is made, or None."""
    both = [run for name in (arm, study.baseline) for run in by_arm(runs).get(name, ())]
    here = [run for run in both if run.seed in study.tested]
    waiting = [run for run in here if run.status in ("unfinished", "not run")]
    if not difference.n:
        return _no_pair(here, metric, waiting)
    if difference.estimate is None:
        return "no claim: a run ended with a value that is no number"
    measured = f"{words.signed_points(metric, difference.estimate)}{_reach(study, metric, difference)}"
    if against.mixed and not against.pool:
        return f"no claim: {'; '.join(against.mixed)}"
    if difference.n == 1:
        return "no claim: one seed cannot tell a difference from chance"
    if metric.startswith(NOT_QUALITY):
        return f"no claim: {measured}, but this is no measure of quality"
    if metric != study.decide.metric:
        return f"explored only: {measured}; the study decides on {words.title(study.decide.metric)}"
    if study.explores:
        return f"explored only: {measured}; the study tests its claim on seeds still to be added, with --more-seeds"
    if waiting:
        return f"no claim yet: {measured}, with {words.plural(len(waiting), 'planned run')} of the two arms to come"
    if difference.exact and separates(difference, higher_is_better=True) == "none":
        return f"no claim: {measured} in each of {difference.n} seeds alike, which leaves no spread to judge it by"
    if difference.interval is None and not difference.exact:
        return f"no claim: {measured}, but {difference.n} seeds are too few for the rule {study.decide.rule}"
    return None


def _no_pair(here: list[Run], metric: str, waiting: list[Run]) -> str:
    """Why no seed has a value in both arms."""
    if any(run.finals for run in here) and not any(metric in run.finals for run in here):
        if gone := words.listed(list(dict.fromkeys(uri for run in here for uri in run.skipped))):
            return f"no claim: no run has {metric}; {gone} was not there to be evaluated on"
        without = not labelled(here)
        return "no claim on quality is possible: no labels" if without else f"no claim: no run has {metric}"
    return "no claim yet: no seed has finished in both arms" if waiting else "no claim: no seed finished in both arms"


def _reach(study: Study, metric: str, difference: Difference) -> str:
    if difference.interval is None:
        return ""
    return f" ({_interval_named(study)} {words.signed_span(metric, difference.interval)})"


def _interval_named(study: Study) -> str:
    of = RULES[study.decide.rule].of
    return f"{words.level(study.decide.alpha)} interval" + (f" of the {of}" if of != "mean" else "")


def _claimed(study: Study, metric: str, claim: Claim, difference: Difference) -> str:
    seeds, reach = words.plural(difference.n, "seed"), _reach(study, metric, difference)
    if difference.exact:
        return f"not separable: the values are equal in each of {seeds}"
    if claim in ("better", "worse"):
        return f"{claim} than {study.baseline} by {words.points(metric, abs(difference.estimate or 0))}{reach}, {seeds}"
    measured = f"{words.signed_points(metric, difference.estimate)}{reach}"
    if claim == "no worse":
        return f"no worse than {study.baseline} by {words.points(metric, study.decide.margin)}: {measured}, {seeds}"
    return f"not separable: {measured}; {_resolved(metric, seeds, (difference,))}{_wanted(study, difference)}"


def _wanted(study: Study, difference: Difference) -> str:
    """What a claim would take, were the difference as large as it looks."""
    if difference.sd is None or not difference.estimate:
        return ""
    seeds = needed(study, difference)
    return f"; to find one as large as this would take {words.count(seeds) if seeds else f'over {MOST_SEEDS}'} seeds"


def _resolved(metric: str, seeds: str, differences: Sequence[Difference]) -> str:
    """The smallest difference that the seeds could have told apart, or from the smallest to the largest of several arms."""
    least = sorted(each.resolvable for each in differences if each.resolvable is not None)
    span = words.resolvable_points(metric, least[-1])
    if len(differences) > 1 and words.resolvable_points(metric, least[0]) != span:
        span = f"{words.resolvable(metric, least[0])} to {span}, depending on the arm,"
    return f"with {seeds} only a difference of {span} would have been found four times in five"


def _left_out(study: Study, runs: Iterable[Run], metric: str, arm: str, found: Compared) -> str:
    """The runs that failed or were not evaluated, and the seeds that other arms' failures cost this one."""
    runs = [run for run in runs if run.seed in study.tested]
    arms = (arm, study.baseline)
    failed = [f"{run.arm} seed {run.seed}" for run in runs if run.arm in arms and run.status == "failed"]
    text = f"; left out as failed: {words.listed(failed)}" if failed else ""
    unseen = [
        f"{run.arm} seed {run.seed}" for run in runs if run.arm in arms and run.skipped and metric not in run.finals
    ]
    text += f"; left out as not evaluated: {words.listed(unseen)}" if unseen else ""
    lost = {run.seed for run in runs if run.status == "failed"} - found.seeds.keys()
    if study.decide.rule == "blocked" and not failed and lost:
        text += f"; left out, as other arms failed there: {words.seeds(sorted(lost))}"
    return text


def arm_rows(study: Study, runs: tuple[Run, ...], metric: str, against: Guard) -> tuple[ArmRow, ...]:
    judged = {each.row.arm: each for each in judge(study, runs, metric, against)}

    def row(arm: str) -> ArmRow:
        ours = finals(runs, arm, metric)
        status = {run.seed: run.status for run in by_arm(runs)[arm]}
        shown = (
            (seed, words.value(metric, ours[seed]) if seed in ours else _absent(status[seed])) for seed in study.seeds
        )
        return ArmRow(arm, mean_of(list(ours.values()), study.decide.alpha), tuple(shown), judged.get(arm))

    return tuple(row(arm.name) for arm in study.arms)


def _absent(status: str) -> str:
    return "no value" if status == "finished" else status


def headline(study: Study, runs: tuple[Run, ...], judged: tuple[Judged, ...]) -> tuple[str, ...]:
    """The answer, one or two sentences, for the metric that decides."""
    metric, done = study.decide.metric, [run for run in runs if run.status == "finished"]
    if not done:
        return (f"No answer yet: none of {words.plural(len(runs), 'planned run')} has finished.",)
    if not labelled(runs):
        gone = words.listed(list(dict.fromkeys(uri for run in runs for uri in run.skipped)))
        why = f"{gone} was not there to be evaluated on" if gone else "these images have no labels"
        return (f"No claim on quality is possible: {why}. What follows is health and cost only.",)
    if not judged:
        return ("There is one arm alone, so there is nothing to compare.",)
    groups: dict[str, list[str]] = {}
    for each in sorted(judged, key=lambda each: ORDER[each.row.claim]):
        groups.setdefault(_said(study, each, judged), []).append(_named(study, each, judged))
    sentences = [f"{words.listed(arms)}{said}." for said, arms in groups.items()]
    return (f"On {words.title(metric)}, {sentences[0]}", *sentences[1:])


def mixed(study: Study, judged: Mapping[str, Sequence[Judged]], against: Guard) -> tuple[str, ...]:
    """A sentence on each arm that is better by one measure of quality and worse by another, each by its own interval."""
    if against.mixed and not against.pool:
        return ()
    found: dict[str, dict[Claim, list[str]]] = {}
    for metric, rows in judged.items():
        for each in rows if not metric.startswith(NOT_QUALITY) else ():
            claim = separates(each.difference, higher_is_better=words.higher_is_better(metric))
            found.setdefault(each.row.arm, {}).setdefault(claim, []).append(words.title(metric))
    return tuple(
        f"Mixed: {arm} is better than {study.baseline} on {words.listed(by['better'])}, "
        f"and worse on {words.listed(by['worse'])}"
        for arm, by in found.items()
        if "better" in by and "worse" in by
    )


def _even(judged: Sequence[Judged]) -> list[Judged]:
    return [each for each in judged if each.row.claim == "not separable" and not each.difference.exact]


def _named(study: Study, each: Judged, judged: Sequence[Judged]) -> str:
    """An arm; with what was measured of it, where it shares a sentence with others that are not separable, but not many."""
    if each in (even := _even(judged)) and 1 < len(even) <= MEASURED:
        measured = words.signed_points(study.decide.metric, each.difference.estimate)
        reach = words.signed_span(study.decide.metric, each.difference.interval)
        return f"{each.row.arm} ({measured}, {_interval_named(study)} {reach})"
    return each.row.arm


def _said(study: Study, each: Judged, judged: tuple[Judged, ...]) -> str:
    """The predicate of an arm; arms of one predicate share a sentence."""
    if each.row.claim in CLAIMED:
        return f" is {each.row.words}"
    if each.row.claim == "none" or each.difference.exact:
        return f": {each.row.words}"
    even = [other.difference for other in _even(judged)]
    metric, seeds = study.decide.metric, words.plural(min(difference.n for difference in even), "seed")
    if len(even) == 1:
        measured = f"{words.signed_points(metric, each.difference.estimate)}{_reach(study, metric, each.difference)}"
        return f" is not separable from {study.baseline}: {measured}; {_resolved(metric, seeds, even)}"
    return f" are not separable from {study.baseline}: {_resolved(metric, seeds, even)}"
