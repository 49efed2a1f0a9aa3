"""SearchSpec: a base recipe, the fields of it that may vary, what is to be best, and what the search may cost.

A trial is a point of the space: the base with a value for each field, one run for each of the search's seeds.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dinov2lab.spec.cost import images_of_run
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.section import Count, Positive, Section, later

Direction = Literal["maximize", "minimize"]
KINDS = ("log", "linear", "integers", "choices")
COSTS = ("cost/images", "cost/flops", "cost/seconds", "cost/peak_memory_mb")
HEALTH = ("health/feature_std", "health/rankme", "health/uniformity")
LOOKS = ("val/knn", "health/alignment", *HEALTH)  # measured during training too, so that a rung can see them


class Dimension(Section):
    """The values that one field may take: a range or choices. `when`: only where other fields have such values."""

    log: tuple[float, float] | None = None
    linear: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    when: dict[str, Any] = Field(default={})

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def bounds(self) -> tuple[float, float] | tuple[int, int] | None:
        """None for choices."""
        return self.log or self.linear or self.integers

    def holds(self, value: Any) -> bool:
        if self.choices is not None:
            return value in self.choices
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = self.integers is None or isinstance(value, int)
        return bool(self.bounds and number and whole and self.bounds[0] <= value <= self.bounds[1])

    def examples(self) -> tuple[Any, ...]:
        """Its extremes: whatever is wrong with a field is wrong there. Of integers also the next one: only some may fit."""
        if self.integers:
            low, high = self.integers
            return tuple(dict.fromkeys((low, low + 1, high)))
        return self.choices or self.bounds or ()

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"wants one of {', '.join(KINDS)}, and has {' and '.join(given) or 'none'}")
        if self.choices and any(value in self.choices[:place] for place, value in enumerate(self.choices)):
            raise ValueError("a value stands twice in choices")
        if self.bounds and self.bounds[0] >= self.bounds[1]:
            raise ValueError(f"{given[0]}: the lower bound {self.bounds[0]:g} is not below {self.bounds[1]:g}")
        if self.log and self.log[0] <= 0:
            raise ValueError(f"log: the lower bound {self.log[0]:g} is not above 0")
        return self


class Budget(Section):
    """What the search may cost: it starts no trial beyond any of these."""

    trials: Count | None = None  # points, whatever becomes of them
    images: Count | None = None  # seen in training, summed over all runs
    hours: Positive | None = None  # of training, summed over all runs

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.trials is None and self.images is None and self.hours is None:
            raise ValueError("wants at least one of trials, images, hours")
        return self


class Sampler(Section):
    kind: Literal["tpe", "random", "grid", "gp"] = "tpe"
    seed: int = 0
    startup: Count = 10  # random points before tpe or gp begins to learn
    points: Annotated[int, Field(ge=2)] = 5  # of a grid, on each range


class Pruner(Section):
    """`asha` and `hyperband` stop runs at rungs of val during training, `wilcoxon` a point after some of its seeds."""

    kind: Literal["none", "hyperband", "asha", "wilcoxon"] = "none"
    first: Count | None = None  # images at the first rung; none: the first look at val
    reduction: Annotated[int, Field(ge=2)] = 3  # one in so many goes on from a rung
    p: Annotated[float, Field(gt=0, lt=0.5)] = 0.1  # of wilcoxon


class SearchSpec(Section):
    name: Annotated[str, Field(pattern=r"^[\w+=-][\w.+=-]*$", max_length=120)]  # of folders too: `..` is none
    question: str = ""
    base: RunSpec  # its seed is replaced by `seeds`
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    equal: Literal["steps", "images", "flops"] = "steps"  # what every trial spends, as the base does
    metrics: Annotated[dict[str, Direction], Field(min_length=1)]  # several: a Pareto front
    budget: Budget
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)  # a trial's value is the mean over them
    enqueue: tuple[Literal["base"] | dict[str, Any], ...] = ()  # points to try first; fields left out are sampled
    earlier: tuple[
        str, ...
    ] = ()  # searches and studies of this workspace whose fitting runs are points already paid for
    transfer: tuple[str, ...] = later(
        absent=()
    )  # searches of another base, a smaller model: their best are tried first

    @property
    def rungs(self) -> bool:
        return self.pruner.kind in ("asha", "hyperband")

    @property
    def levels(self) -> tuple[int, ...]:
        """Images at which runs are compared, all of them before the base's end; none without rungs."""
        found, last = list[int](), images_of_run(self.base)
        at = self.pruner.first or self.base.evaluation.every
        while self.rungs and at < last:
            found.append(at)
            at *= self.pruner.reduction
        return tuple(found)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice in seeds")
        for metric in self.metrics:
            _refuse_metric(metric, produced(self.base))
        if self.pruner.kind != "none" and len(self.metrics) > 1:
            raise ValueError(f"pruner {self.pruner.kind} ranks trials by one metric, and the search has several")
        if self.rungs and (blind := [metric for metric in self.metrics if metric not in LOOKS]):
            raise ValueError(
                f"pruner {self.pruner.kind} needs a metric that is measured during training, {blind[0]} is not"
            )
        if self.rungs and len(self.seeds) > 1:
            raise ValueError(
                f"pruner {self.pruner.kind} compares runs of one seed; for several seeds there is wilcoxon"
            )
        if self.pruner.kind == "wilcoxon" and len(self.seeds) < 5:
            raise ValueError("pruner wilcoxon can tell nothing from fewer than 5 seeds")
        conditional = any(each.when for each in self.space.values())
        if self.sampler.kind == "grid" and (self.enqueue or self.transfer or conditional):
            raise ValueError("sampler grid takes neither enqueue nor transfer nor conditional fields")
        return self


def produced(base: RunSpec) -> tuple[str, ...]:
    """What a chooser may see of a run of `base`: val, health and costs; test never, and losses differ in meaning."""
    measures, val = base.evaluation, list[str]()
    if measures.memory is not None:
        names = ("linear", "logistic", "retrieval", "segmentation", "depth")
        probes = {name: getattr(measures, name) for name in names}
        val = ["val/knn", *(f"val/{name}" for name, probe in probes.items() if probe), "health/alignment"]
    return (*val, *HEALTH, *COSTS)


def _refuse_metric(metric: str, known: tuple[str, ...]) -> None:
    if metric.split("/")[0] == "test":
        raise ValueError(f"metrics {metric}: nothing that chooses may see test; choose on val")
    if metric not in known:
        near = did_you_mean(metric, list(known)) or f"; there are {', '.join(known)}"
        raise ValueError(f"metrics {metric}: nobody produces it{near}")


def search_id(search: SearchSpec) -> str:
    """What makes two searches one: all but its budget, its warm starts and its words."""
    return content_id(
        search.model_copy(update={"budget": None, "enqueue": (), "earlier": (), "transfer": (), "question": ""})
    )
