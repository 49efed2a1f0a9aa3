"""How the arms of a study were tuned: what each search was allowed and took, what it found, and on which seeds."""

from typing import Any, NamedTuple

from dinov2lab.report import recipe, words
from dinov2lab.spec.search import Budget
from dinov2lab.spec.study import Study

CAVEAT = (
    "Each arm stands at the point that its one search found: how lucky that search was is part of the difference, and the "
    "interval, which is about other seeds, does not hold it"
)
APART = ("tpe", "gp")  # samplers that learn, and so try other points in each arm


class Row(NamedTuple):
    """An arm and what came of its search."""

    arm: str
    search: str
    seeds: str
    points: int
    images: int
    trial: int
    value: str
    point: tuple[str, ...]


def tuning(study: Study) -> dict[str, Any] | None:
    """What both templates show; None of a study that tunes nothing."""
    if study.tune is None or not study.tune.found:
        return None
    sampler = study.tune.per_arm.sampler.kind
    differing = f"; {sampler} tries other points in each arm, which adds to it" if sampler in APART else ""
    metric, space = next(iter(study.tune.per_arm.metrics)), study.tune.per_arm.space
    return {
        "caveat": CAVEAT + differing,
        "budget": allowed(study.tune.budget),
        "search": study.tune.per_arm.name,
        "metric": words.title(metric) + (", %" if words.is_accuracy(metric) else ""),
        "space": list(space),
        "rows": [
            Row(
                arm=arm.name,
                search=found.search,
                seeds=", ".join(map(str, found.seeds)),
                points=found.points,
                images=found.images,
                trial=found.trial,
                value=words.value(metric, found.value),
                point=tuple(recipe.short(found.point[key]) if key in found.point else "" for key in space),
            )
            for arm in study.arms
            for found in [study.tune.found[arm.name]]
        ],
    }


def allowed(budget: Budget) -> str:
    """In words."""
    told = [
        *([words.plural(budget.trials, "trial")] if budget.trials else []),
        *([f"{words.amount(budget.images)} images"] if budget.images else []),
    ]
    return words.listed(told)
