"""Studies side by side: what differs between them, how their arms stand, and the arms that they share, seed by seed.

No rule was written for a comparison across studies before they ran, so nothing here is a claim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from dinov2lab.report import rules, tables, verdict, words
from dinov2lab.report.render import html, markdown
from dinov2lab.report.statistics import Difference, paired_difference
from dinov2lab.report.tables import Run, finals, read_runs
from dinov2lab.spec.study import Study
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace

MOST_FIELDS = 40


@dataclass(frozen=True)
class Shared:
    """One arm name of two studies on one metric: second minus first over the seeds that both have."""

    metric: str
    arm: str
    first: str
    second: str
    difference: Difference
    same: int  # runs that belong to both studies
    doubt: str  # why even the look at it misleads, or nothing


def write_comparison(studies: Sequence[Study], workspace: Workspace, out: Path) -> Path:
    """Write index.html, report.md and comparison.json into `out`; returns the page. Raises ValueError for fewer than two."""
    if len({study.name for study in studies}) < max(2, len(studies)):
        raise ValueError("a comparison is between two studies or more, each named once")
    view = _view(studies, [read_runs(study, workspace) for study in studies])
    atomic.write_text(out / "report.md", markdown().get_template("compare.md.j2").render(view))
    atomic.write_json(out / "comparison.json", [_plain(each) for each in view["shared"]])
    atomic.write_text(out / "index.html", html().get_template("compare.html.j2").render(view))
    return out / "index.html"


def _plain(each: Shared) -> dict[str, Any]:
    low, high = each.difference.interval or (None, None)
    fields = ("metric", "arm", "first", "second", "same")
    known = {name: getattr(each, name) for name in fields}
    return known | {"seeds": each.difference.n, "difference": each.difference.estimate, "low": low, "high": high}


def _view(studies: Sequence[Study], runs: Sequence[tuple[Run, ...]]) -> dict[str, Any]:
    metrics = list(dict.fromkeys(metric for study in studies for metric in study.metrics))
    return {
        "words": words,
        "studies": studies,
        "rules": rules.RULES,
        "done": [sum(run.status == "finished" for run in each) for each in runs],
        "headlines": [_headline(study, each) for study, each in zip(studies, runs, strict=True)],
        "fields": _differing(studies)[:MOST_FIELDS],
        "more_fields": max(0, len(_differing(studies)) - MOST_FIELDS),
        "metrics": [(metric, _rows(studies, runs, metric)) for metric in metrics],
        "shared": [each for metric in metrics for each in _shared(studies, runs, metric)],
    }


def _headline(study: Study, runs: tuple[Run, ...]) -> str:
    judged = verdict.judge(study, runs, study.decide.metric, verdict.guard(study, runs, pool=False))
    return " ".join(verdict.headline(study, runs, judged))


def _rows(studies: Sequence[Study], runs: Sequence[tuple[Run, ...]], metric: str) -> list[tuple[Study, verdict.ArmRow]]:
    """The arms of each study that measured `metric`, as its own report shows them."""
    return [
        (study, row)
        for study, each in zip(studies, runs, strict=True)
        if metric in study.metrics
        for row in verdict.arm_rows(study, each, metric, verdict.guard(study, each, pool=False))
    ]


def _shared(studies: Sequence[Study], runs: Sequence[tuple[Run, ...]], metric: str) -> Iterator[Shared]:
    """The arms of one name in two studies; together by Bonferroni over all of them."""
    pairs = [
        (first, second, arm.name)
        for first, second in combinations(range(len(studies)), 2)
        for arm in studies[first].arms
        if arm.name in [other.name for other in studies[second].arms]
    ]
    for first, second, arm in pairs:
        ours, theirs = finals(runs[second], arm, metric), finals(runs[first], arm, metric)
        seeds = sorted(ours.keys() & theirs.keys())
        if seeds:
            pair = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
            both = [run for each in (runs[first], runs[second]) for run in each if run.arm == arm]
            same = len(both) - len({run.id for run in both})
            found = paired_difference(*pair, studies[first].decide.alpha, len(pairs))
            names = studies[first].name, studies[second].name
            yield Shared(metric, arm, *names, found, same, "; ".join(tables.mixtures((*runs[first], *runs[second]))))


def _differing(studies: Sequence[Study]) -> list[tuple[str, tuple[str, ...]]]:
    """The fields in which the studies differ: their own, and those of their baselines' recipes."""
    flat = [dict(_leaves("", _told(study))) for study in studies]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = [(name, tuple(each.get(name, "–") for each in flat)) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _told(study: Study) -> dict[str, Any]:
    plain = study.model_dump(mode="json", exclude={"arms", "name", "question"})
    base = next(arm.spec for arm in study.arms if arm.name == study.baseline)
    return plain | {"arms": [arm.name for arm in study.arms], "recipe": base.model_dump(mode="json")}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}" if key else name, item)
    elif isinstance(value, list):
        yield key, ", ".join(map(str, value)) or "–"
    else:
        yield key, "–" if value is None else str(value)
