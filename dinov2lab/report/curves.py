"""Which curves a report shows: learning, and health."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dinov2lab.report import words
from dinov2lab.report.figures import Line, Panel, thinned
from dinov2lab.report.references import references
from dinov2lab.report.tables import Run, by_arm
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Study

LEARNING = ("loss/total", "loss/dino_global", "loss/dino_local", "loss/ibot", "loss/koleo")
HEALTH = ("health/feature_std", "health/rankme", "teacher/entropy", "student/entropy", "gradient/norm")
LOOKS = ("val/", "student/val/")  # of the teacher, and of the student where a recipe asks for it
BEST = "choice/images_at_best_"  # what a result says of the best look by a metric whose slashes are lines
MOST_LINES = 60  # of one figure; of more runs an arm's median is drawn, and their spread
UNIFORM = ("loss/dino_global", "loss/dino_local", "loss/ibot", "teacher/entropy", "student/entropy")


@dataclass(frozen=True)
class Best:
    """When an arm's looks at val were best by one metric, in images seen: over its finished runs."""

    arm: str
    metric: str
    middle: float  # the median
    first: float
    last: float


def learning(study: Study, runs: Sequence[Run]) -> tuple[Panel, ...]:
    """Accuracies on val with their reference rows, the teacher's and the student's; then the loss terms."""
    return _panels(study, runs, (*_looks(runs), *LEARNING))


def _looks(runs: Sequence[Run]) -> list[str]:
    """The metrics that looks at val had."""
    return list(dict.fromkeys(name for run in runs for row in run.rows for name in row if name.startswith(LOOKS)))


def best_looks(study: Study, runs: tuple[Run, ...]) -> tuple[Best, ...]:
    """By each metric of the looks and each arm; nothing where the recipe asks for no `looks`."""
    found = []
    for metric in _looks(runs):
        name = BEST + metric.replace("/", "_")
        for arm in study.arms:
            if seen := [run.finals[name] for run in by_arm(runs).get(arm.name, ()) if name in run.finals]:
                found.append(Best(arm.name, metric, float(np.median(seen)), min(seen), max(seen)))
    return tuple(found)


def health(study: Study, runs: Sequence[Run]) -> tuple[Panel, ...]:
    return _panels(study, runs, HEALTH)


def _panels(study: Study, runs: Sequence[Run], metrics: Sequence[str]) -> tuple[Panel, ...]:
    panels = (_panel(study, runs, metric) for metric in metrics)
    return tuple(panel for panel in panels if panel.lines)


def _panel(study: Study, runs: Sequence[Run], metric: str) -> Panel:
    place = {arm.name: index for index, arm in enumerate(study.arms)}
    lines = []
    for run in sorted(runs, key=lambda run: (place[run.arm], run.seed)):
        points = [(float(row["images"]), float(row[metric])) for row in run.rows if metric in row]
        if points:
            lines.append(Line(place[run.arm], f"{run.arm} seed {run.seed}", points))
    if len(lines) > MOST_LINES:
        lines = [_middle([line for line in lines if line.arm == place[arm.name]], arm.name) for arm in study.arms]
    return Panel(words.heading(metric), tuple(lines), _marks(study, runs, metric), words.scale(metric))


def _middle(lines: Sequence[Line], arm: str) -> Line:
    """The median of an arm's runs, and between which values nine of ten lie, where at least half of them have one."""
    values: dict[float, list[float]] = {}
    for line in lines:
        for x, y in thinned(line.points):
            if math.isfinite(y):
                values.setdefault(x, []).append(y)
    alike: dict[int, list[float]] = {}  # how many runs have a value -> where
    for x, ys in values.items():
        if 2 * len(ys) >= len(lines):
            alike.setdefault(len(ys), []).append(x)
    spread = sorted(
        (x, *ends)
        for xs in alike.values()
        for x, ends in zip(xs, np.quantile([values[x] for x in xs], (0.05, 0.5, 0.95), axis=1).T.tolist(), strict=True)
    )
    points = [(x, middle) for x, _, middle, _ in spread]
    return Line(
        lines[0].arm if lines else 0,
        f"{arm}, median of {words.plural(len(lines), 'run')}",
        points,
        [(x, low, high) for x, low, _, high in spread],
    )


def _marks(study: Study, runs: Sequence[Run], metric: str) -> tuple[tuple[float, str], ...]:
    """The lines to read a curve against: the references of an accuracy, ln K of an entropy or cross-entropy."""
    if words.is_accuracy(metric):
        rows = references(study, tuple(runs), metric)
        return tuple(
            (row.mean.mean, row.name if row.everywhere else f"{row.name} ({', '.join(row.arms)})")
            for row in rows
            if row.mean.mean is not None
        )
    if metric not in UNIFORM:
        return ()
    levels = sorted({signature(run.spec, metric) for run in runs})
    return tuple((share * math.log(count), _mark(share, count)) for share, count in levels)


def signature(spec: RunSpec, metric: str) -> tuple[float, int]:
    """(share, K): a uniform output over K prototypes puts the metric at share x ln K.

    DINO's two terms share the mean over all pairs of crops; iBOT's counts unmasked crops as 0.
    """
    head, share, pairs = spec.objective.dino.head, 1.0, 2 + 2 * spec.views.local_crops
    match metric:
        case "loss/dino_global":
            share = 2 / pairs
        case "loss/dino_local":
            share = 2 * spec.views.local_crops / pairs
        case "loss/ibot":
            head, share = spec.objective.ibot.head or head, spec.objective.ibot.masks.probability
    return share, head.prototypes


def _mark(share: float, prototypes: int) -> str:
    factor = "" if share == 1 else f"{share:.2g} × "
    return f"{factor}ln {words.count(prototypes)}: uniform output"
