"""`tune:` of a study: the search that each of its arms gets, and why it cannot be had. All mistakes are SpecErrors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dinov2lab.spec.document import Item, SpecError
from dinov2lab.spec.fields import locate
from dinov2lab.spec.load_search import load_for, load_search
from dinov2lab.spec.points import corners, reason_of, spec_at
from dinov2lab.spec.recipes import mapping, reference
from dinov2lab.spec.search import Budget, SearchSpec
from dinov2lab.spec.section import Section
from dinov2lab.spec.study import Arm, Study, Tune, equalised
from dinov2lab.spec.tuning import LONGEST, searches

_SUFFIX = "-123456"  # of a study with overrides


class TuneFile(Section):
    """Each arm is searched before the study runs, once or for each seed: docs/searches.md, ablations/centering_tuned.yaml."""

    per_arm: str  # the path of a search
    budget: Budget | None = None  # none: that of the search
    per: Literal["arm", "seed"] = "arm"


def tune_of(item: Item) -> Tune:
    """What `tune:` says, its search in it."""
    search, told = load_search(_file(item)), TuneFile.model_validate(item.plain())
    return Tune(per_arm=search, budget=told.budget or search.budget, per=told.per)


def _file(item: Item) -> Path:
    return reference(mapping(item)["per_arm"], "tune.per_arm")


def refuse_untunable(study: Study, item: Item) -> None:
    """Raise SpecError where the arms of `study` cannot be tuned as its `tune:` says, or not with equal means."""
    assert study.tune is not None
    where, search, budget = locate(item, ("per_arm",)), study.tune.per_arm, study.tune.budget
    if reason := next(_unfair(study, search), None):
        raise SpecError(f"{where}: tune.per_arm: the search {search.name} {reason}")
    if budget.hours is not None:
        raise SpecError(
            f"{locate(item, ('budget', 'hours'))}: tune.budget: hours are not the same for every arm; say trials or images"
        )
    if long := [place.arm for place in study.places if len(f"{study.name}{_SUFFIX}.{place}") > LONGEST]:
        raise SpecError(f"{where}: tune: the names of the study and of {long[0]} are too long for that of a search")
    for arm, each in {place.arm: each for place, each in searches(study).items()}.items():
        try:
            load_for(_file(item), each.base)
        except SpecError as error:
            raise SpecError(f"{error} (in the arm {arm}, {where})") from None
        _refuse_lengths(study, arm, each, where)


def _unfair(study: Study, search: SearchSpec) -> Iterator[str]:
    """Why the search would not leave the study what it is, or not give every arm as much."""
    if len(search.metrics) > 1:
        yield f"is after {', '.join(search.metrics)}: with several metrics there is no one best point"
    for name in ("earlier", "transfer"):
        if getattr(search, name):
            yield f"takes points from elsewhere ({name}): arms are tuned by what each of them paid for"
    for key in search.space:
        for factor in study.factor:
            if f"{key}.".startswith(f"{factor}.") or f"{factor}.".startswith(f"{key}."):
                yield f"varies {key}, which is what arms differ in (factor {factor})"
    wanted = "steps" if study.equal == "passes" else study.equal
    if search.equal != wanted:
        yield f"holds {search.equal} equal where the study holds {study.equal}; it wants equal: {wanted}"


def _refuse_lengths(study: Study, name: str, search: SearchSpec, where: str) -> None:
    """At every extreme of the space, the arm must be one that the study can hold equal to its baseline."""
    for key, value, point in corners(search):
        tried = [arm if arm.name != name else Arm(name=name, spec=spec_at(search, point)) for arm in study.arms]
        try:
            equalised(study.model_copy(update={"arms": tuple(tried)}))
        except ValueError as error:
            raise SpecError(f"{where}: tune.per_arm: {search.name}: {key} at {value!r}: {reason_of(error)}") from None
