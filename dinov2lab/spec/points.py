"""Points of a search: the recipes and runs that they are, the base as one, and the study that confirms some of them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from dinov2lab.spec.cost import flops_of_image, images_of_run
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.search import Dimension, SearchSpec
from dinov2lab.spec.study import Arm, Decide, Study, with_steps

Point = Mapping[str, Any]  # dotted field of the recipe -> its value


def active(search: SearchSpec, point: Point) -> Iterator[tuple[str, Dimension]]:
    """The fields that a point has, given the values of those before them. `point` may grow meanwhile."""
    for key, dimension in search.space.items():
        if all(key in point and _matches(point[key], wanted) for key, wanted in dimension.when.items()):
            yield key, dimension


def _matches(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list) else bool(value == wanted)


def base_point(search: SearchSpec) -> dict[str, Any]:
    """The base recipe as a point of the space. Raises ValueError where it lies outside."""
    plain, point = search.base.model_dump(mode="json"), dict[str, Any]()
    for key, dimension in active(search, point):
        point[key] = value_in(plain, key)
        if not dimension.holds(point[key]):
            raise ValueError(f"the base lies outside the space: its {key} is {point[key]}")
    return point


def value_in(plain: Any, key: str) -> Any:
    """The value of a dotted field in nested mappings and lists. Raises KeyError where there is none."""
    for part in key.split("."):
        if isinstance(plain, list) and part.isdecimal() and int(part) < len(plain):
            plain = plain[int(part)]
        elif isinstance(plain, dict) and part in plain:
            plain = plain[part]
        else:
            raise KeyError(key)
    return plain


def spec_at(search: SearchSpec, point: Point) -> RunSpec:
    """The recipe at `point`, its length set so that what the search holds equal is equal to the base's.

    Raises ValueError (pydantic's, where a field's value does not fit the others).
    """
    plain = search.base.model_dump(mode="json")
    for key, value in point.items():
        above, _, last = key.rpartition(".")
        holder: Any = value_in(plain, above) if above else plain
        holder[int(last) if isinstance(holder, list) else last] = value
    return _equalised(search, RunSpec.model_validate_json(json.dumps(plain)))


def _equalised(search: SearchSpec, spec: RunSpec) -> RunSpec:
    images = images_of_run(search.base)
    match search.equal:
        case "images":
            if images % spec.optim.batch:
                raise ValueError(
                    f"optim.batch {spec.optim.batch}: the base's {images} images are no whole number of steps"
                )
            return with_steps(spec, images // spec.optim.batch)
        case "flops":
            cost = flops_of_image(spec) * spec.optim.batch
            return with_steps(spec, max(1, round(images * flops_of_image(search.base) / cost)))
    return spec


class Planned(NamedTuple):
    """One run of a trial."""

    run: str  # id
    spec: RunSpec


def runs_at(search: SearchSpec, point: Point) -> tuple[Planned, ...]:
    """The runs of a trial, one for each seed."""
    spec = spec_at(search, point)
    specs = [spec.seeded(seed) for seed in search.seeds]
    return tuple(Planned(run_id(each), each) for each in specs)


def corners(search: SearchSpec) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(field, value, point): the base with one field at each of its extremes, its conditions met."""
    for key, dimension in search.space.items():
        for value in dimension.examples():
            yield key, value, {**_conditions(search, key), key: value}


def _conditions(search: SearchSpec, key: str) -> dict[str, Any]:
    """Values that make the field active."""
    needed = dict[str, Any]()
    for name, wanted in search.space[key].when.items():
        needed |= {**_conditions(search, name), name: wanted[0] if isinstance(wanted, list) else wanted}
    return needed


def reason_of(error: ValueError) -> str:
    """Why a point is no recipe, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        return f"{name}{': ' if name else ''}{first['msg'].removeprefix('Value error, ')}"
    return str(error)


def point_of(search: SearchSpec, spec: RunSpec) -> dict[str, Any] | None:
    """The point whose run `spec` is, its seed aside; None where it lies outside, or differs from the base elsewhere."""
    plain, point = spec.model_dump(mode="json"), dict[str, Any]()
    try:
        for key, dimension in active(search, point):
            point[key] = value_in(plain, key)
            if not dimension.holds(point[key]):
                return None
        same = spec_at(search, point).seeded(spec.seed)
    except (KeyError, ValueError):
        return None
    return point if run_id(same) == run_id(spec) else None


FRESH = 1000  # the first seed of a confirmation: no search chose on it
DURATIONS = (
    "optim.steps",
    "optim.warmup_steps",
    "optim.freeze_last_layer_steps",
    "objective.teacher.temperature_warmup_steps",
)


def confirmation(search: SearchSpec, points: Mapping[str, Point], seeds: int) -> Study:
    """The study that asks whether `points` (by arm name) hold against the base, on `seeds` fresh seeds, paired.

    It decides on test where the search chose on val. Raises ValueError where the search cannot be confirmed so.
    """
    base = spec_at(search, {})
    arms = {"base": base} | {name: spec_at(search, point) for name, point in points.items()}
    arms = {name: spec for name, spec in arms.items() if name == "base" or spec != base}
    if len(arms) == 1:
        raise ValueError("nothing to confirm: the base is the best; a larger --confirm takes in the next ones")
    equal = "steps" if len({spec.optim.steps for spec in arms.values()}) == 1 else search.equal
    chosen = [metric for metric in search.metrics if metric.startswith("val/")]
    if not chosen:
        raise ValueError("nothing to confirm: the search is after no accuracy")
    tested = [metric.replace("val/", "test/") for metric in chosen] if base.evaluation.test else []
    return Study(
        name=f"{search.name}-confirm",
        question=f"Does what the search {search.name} found hold on seeds that chose nothing?",
        factor=(*search.space, *(DURATIONS if equal != "steps" else ())),
        equal=equal,
        baseline="base",
        arms=tuple(Arm(name=name, spec=spec) for name, spec in arms.items()),
        seeds=tuple(seed for seed in range(FRESH, FRESH + seeds + len(search.seeds)) if seed not in search.seeds)[
            :seeds
        ],
        metrics=(*tested, *chosen),
        decide=Decide(metric=(*tested, *chosen)[0]),
    )
