"""How the arms of a study were tuned: what each search was allowed and took, what it found, and on which seeds."""

from typing import Any, NamedTuple

from dinov2lab.report import recipe, words
from dinov2lab.spec.search import Budget
from dinov2lab.spec.study import Study, Tune

CAVEAT = (
    "Each arm stands at the point that its one search found: how lucky that search was is part of the difference, and the "
    "interval, which is about other seeds, does not hold it"
)
APART = ("tpe", "gp")  # samplers that learn, and so try other points in each arm once they do


class Row(NamedTuple):
    """A search and what came of it."""

    arm: str
    seed: int | None  # of the study, where the search was for one
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
    metric, space = next(iter(study.tune.per_arm.metrics)), study.tune.per_arm.space
    return {
        "caveat": _caveat(study.tune),
        "how": _how(study, study.tune),
        "each_seed": study.tune.per == "seed",
        "metric": words.heading(metric),
        "space": list(space),
        "rows": [
            Row(
                arm=place.arm,
                seed=place.seed,
                search=found.search,
                seeds=", ".join(map(str, found.seeds)),
                points=found.points,
                images=found.images,
                trial=found.trial,
                value=words.value(metric, found.value),
                point=tuple(recipe.short(found.point[key]) if key in found.point else "" for key in space),
            )
            for place in study.places
            for found in [study.tune.found[str(place)]]
        ],
    }


def _caveat(tune: Tune) -> str | None:
    """What the intervals do not hold; None where they hold it."""
    if tune.per == "seed":
        return None
    sampler = tune.per_arm.sampler
    apart = f"; after its first {sampler.startup} points {sampler.kind} tries others in each arm, which adds to it"
    differing = apart if sampler.kind in APART else ""
    return f"{CAVEAT}{differing}. A study with per: seed in its tune: has it in"


def _how(study: Study, tune: Tune) -> str:
    budget, seeds = f"with the same budget, {allowed(tune.budget)} of {tune.per_arm.name}", words.seeds(study.seeds)
    if tune.per == "arm":
        return (
            f"Before this study ran, each arm was searched by itself, {budget}, and on seeds of its own; then it ran at its "
            f"best point on {seeds}, which no search had seen."
        )
    return (
        f"Before this study ran, each arm was searched by itself for each of its seeds, {budget}, and on seeds and with "
        f"draws of its own; then it ran at the best point of each search, on {seeds}, which no search had seen. So the "
        "differences from seed to seed hold how lucky the searches were, and the intervals with them: what is compared is an "
        "arm as such a search tunes it."
    )


def allowed(budget: Budget) -> str:
    """In words."""
    told = [
        *([words.plural(budget.trials, "trial")] if budget.trials else []),
        *([f"{words.amount(budget.images)} images"] if budget.images else []),
    ]
    return words.listed(told)
