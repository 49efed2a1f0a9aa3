"""Study: a question, what is varied, what is held equal, and the rule that decides, all written before anything runs."""

import zlib
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from dinov2lab.spec.cost import flops_of_run
from dinov2lab.spec.curation import images_left
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.search import Budget, SearchSpec
from dinov2lab.spec.section import Count, Positive, Section, later


class Arm(Section):
    name: Annotated[str, Field(pattern=r"^[\w.+=-]+$", max_length=80)]
    spec: RunSpec  # of the base with this arm's overrides; its seed is set by `expand`
    at: dict[int, RunSpec] = later(absent={})  # seed -> what it is there, where it was tuned for each; never in a file


LEAST_IQM = 5  # seeds: of fewer, an interquartile mean leaves out none or all but two


class Decide(Section):
    """Paired differences to the baseline, with intervals that hold together for all arms at `alpha`.

    The rules are those of report/statistics.py: `paired_t` assumes least; `blocked` pools the spread of all arms over seeds,
    which tells much smaller differences apart where seeds scatter alike in all of them; `sign_flip` is a permutation test;
    `median` and `iqm` are about another middle of the differences than their mean, by ranks and by the bootstrap.
    """

    metric: str
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    looks: Count = 2  # at the results that `alpha` is shared out to: the first one, and one after each --more-seeds
    rule: Literal["paired_t", "blocked", "sign_flip", "median", "iqm"] = "paired_t"
    fresh: bool = later(
        absent=False
    )  # the claim is tested on the seeds of --more-seeds alone, at all of alpha; the first look explores
    strict: bool = False  # no claim on an arm that differs from the baseline in more than the study's factor
    margin: Positive | None = None  # in the metric's own unit: a loss of less is called `no worse`


class Published(Section):
    """What a paper found at its own scale, on its own data: it stands beside a report's numbers, and decides nothing."""

    source: str  # paper and table
    claim: str
    numbers: dict[str, dict[str, float]] = Field(
        default={}
    )  # row of the paper -> column -> value, in the paper's units


Axis = Literal["training_images", "parameters", "images_seen", "flops"]

TUNING = 10**6  # the first of the seeds that are for tuning: no study runs on one


class Place(NamedTuple):
    """What a search tunes: an arm, for all of the study's seeds or for one of them."""

    arm: str
    seed: int | None = None

    def __str__(self) -> str:
        return self.arm if self.seed is None else f"{self.arm}.{self.seed}"


class Found(Section):
    """What came of a search that tuned."""

    search: str  # its name
    seeds: tuple[int, ...]  # its own
    trial: int  # the best one
    point: dict[str, Any]  # field of the recipe -> value
    value: float  # of the search's metric, on val: the best of many, and so no evidence
    points: int  # tried
    images: int  # seen in training by all trials


class Tune(Section):
    """Before the study runs, each arm is searched alone, at one and the same budget, on seeds of its own.

    Only where it is searched anew for each seed of the study do the differences between seeds hold the luck of the search.
    """

    per_arm: SearchSpec  # in place of its base stands the arm, in place of its seeds as many of the place's own
    budget: Budget
    per: Literal["arm", "seed"] = later(absent="arm")
    found: dict[str, Found] = Field(default={})  # place -> what it was tuned to; never in a file

    def seeds(self, place: Place) -> tuple[int, ...]:
        """A function of the place alone, so that arms and seeds can be added."""
        first = TUNING + 1000 * (zlib.crc32(str(place).encode()) % TUNING)
        return tuple(range(first, first + len(self.per_arm.seeds)))


class Study(Section):
    name: Annotated[str, Field(pattern=r"^[\w+=-][\w.+=-]*$", max_length=120)]  # of folders too: `..` is none
    question: str
    factor: Annotated[tuple[str, ...], Field(min_length=1)]  # the fields that arms may differ in
    equal: Literal["steps", "images", "passes", "flops", "nothing"] = "steps"
    baseline: str
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    decide: Decide
    published: Published | None = None
    tune: Tune | None = later(absent=None)
    axis: Axis | None = later(
        absent=None
    )  # along which the arms lie: the report draws curves, and a law where the data carry one
    looked: tuple[Count, ...] = ()  # how many seeds there were at each earlier look; never in a file

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError("two arms have one name")
        if self.baseline not in names:
            raise ValueError(f"the baseline {self.baseline!r} is none of the arms {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice")
        if self.tune and max(self.seeds) >= TUNING:
            raise ValueError(f"seeds {max(self.seeds)}: from {TUNING} on seeds are those that arms are tuned on")
        if self.decide.metric not in self.metrics:
            raise ValueError(f"decide.metric {self.decide.metric!r} is not among the metrics")
        if self.decide.fresh and self.decide.looks < 2:
            raise ValueError("decide.fresh: seeds that are added are a second look; decide.looks must be 2 or more")
        self._can_claim()
        if len(self.looked) >= self.decide.looks:
            raise ValueError(
                f"decide.looks {self.decide.looks}: the study has looked at its results as often as it may"
            )
        return self

    def _can_claim(self) -> None:
        """Raises ValueError where the smallest p that its rule can reach is too large: t tests have none."""
        rule, smallest = self.decide.rule, 2.0 ** (1 - len(self.tested))  # two-sided p that signs can give
        if rule == "iqm" and not self.explores and len(self.tested) < LEAST_IQM:
            raise ValueError(f"decide.rule iqm: {len(self.tested)} seeds, and it takes {LEAST_IQM}; or rule paired_t")
        if rule in ("sign_flip", "median") and not self.explores and smallest > self.alpha / self.comparisons:
            raise ValueError(
                f"decide.rule {rule}: {len(self.tested)} seeds reach p = {smallest:.2g} at best, and the study wants "
                f"{self.alpha / self.comparisons:.2g}; more seeds, or rule paired_t or blocked"
            )

    @property
    def alpha(self) -> float:
        """Of a single look that decides: the study's own is shared out equally (Bonferroni)."""
        return self.decide.alpha / (self.decide.looks - self.decide.fresh)

    @property
    def tested(self) -> tuple[int, ...]:
        """The seeds that differences are taken over: those since the last look, where the study tests on fresh ones."""
        return self.seeds[self.looked[-1] :] if self.decide.fresh and self.looked else self.seeds

    @property
    def explores(self) -> bool:
        """Whether this look is the one that claims nothing, since the claim is tested on seeds still to be added."""
        return self.decide.fresh and not self.looked

    def with_more_seeds(self, count: int) -> "Study":
        """The same study with `count` seeds more, after a look at those that it has. Raises ValueError where none is left."""
        if len(self.looked) + 1 >= self.decide.looks:
            raise ValueError(
                f"decide.looks {self.decide.looks}: {self.name} has looked at its results as often as it may"
            )
        seeds = (*self.seeds, *range(max(self.seeds) + 1, max(self.seeds) + 1 + count))
        looked = (*self.looked, len(self.seeds))
        longer = self.model_copy(update={"seeds": seeds, "looked": looked})
        longer._can_claim()
        return longer

    def before_its_looks(self) -> "Study":
        """As the file says it: without the seeds that were added, and what arms were tuned to for them."""
        if not self.looked:
            return self
        fewer = self.model_copy(update={"seeds": self.seeds[: self.looked[0]], "looked": ()})
        arms = [
            arm.model_copy(update={"at": {seed: arm.at[seed] for seed in fewer.seeds if seed in arm.at}})
            for arm in self.arms
        ]
        kept = [str(place) for place in fewer.places if self.tune and str(place) in self.tune.found]
        tune = self.tune and self.tune.model_copy(update={"found": {place: self.tune.found[place] for place in kept}})
        return fewer.model_copy(update={"arms": tuple(arms), "tune": tune})

    def asks_like(self, other: "Study") -> bool:
        """Whether both are one study: what it merely quotes, and how it is drawn, are no part of it."""
        shown = {"published": None, "axis": None}
        return self.model_copy(update=shown) == other.model_copy(update=shown)

    @property
    def places(self) -> tuple[Place, ...]:
        """What is tuned before the study runs, seed by seed."""
        each = self.seeds if self.tune and self.tune.per == "seed" else (None,)
        return tuple(Place(arm.name, seed) for seed in each for arm in self.arms) if self.tune else ()

    @property
    def untuned(self) -> bool:
        """Whether there is something to be tuned: until then it has no runs of its own."""
        return self.tune is not None and any(str(place) not in self.tune.found for place in self.places)

    @property
    def comparisons(self) -> int:
        """Of an arm with the baseline; with a single arm there is none, and it counts as one."""
        return max(1, len(self.arms) - 1)


class Cell(NamedTuple):
    """One planned run of a study."""

    arm: str
    seed: int
    run: str  # id
    spec: RunSpec


def with_steps(spec: RunSpec, steps: int) -> RunSpec:
    """`spec` with another length; every duration is scaled with it."""
    old, optim, teacher = spec.optim.steps, spec.optim, spec.objective.teacher

    def scaled(duration: int) -> int:
        return round(duration * steps / old)

    optim = optim.model_copy(
        update={
            "steps": steps,
            "warmup_steps": scaled(optim.warmup_steps),
            "freeze_last_layer_steps": scaled(optim.freeze_last_layer_steps),
            "freeze_backbone_steps": scaled(optim.freeze_backbone_steps),
        }
    )
    teacher = teacher.model_copy(update={"temperature_warmup_steps": scaled(teacher.temperature_warmup_steps)})
    objective = spec.objective.model_copy(update={"teacher": teacher})
    return spec.model_copy(update={"optim": optim, "objective": objective})


def images_selected(spec: RunSpec) -> Count | None:
    """How many images the last stage that states a number keeps; none where no stage does."""
    return images_left(spec.curation.stages) if spec.curation else None


def equalised(study: Study) -> Study:
    """`study` with the length of each arm set so that what it calls equal is equal to the baseline's.

    Raises ValueError where that cannot be: arms of other steps or images, or an arm that states no size.
    """
    base = next(arm.spec for arm in study.arms if arm.name == study.baseline)

    def total(spec: RunSpec, images: bool) -> int:
        """Steps or images of all phases."""
        return sum(phase.optim.steps * (phase.optim.batch if images else 1) for phase in spec.phases())

    def arm_spec(arm: Arm) -> RunSpec:
        spec = arm.spec
        match study.equal:
            case "steps" if total(spec, False) != total(base, False):
                raise ValueError(f"arm {arm.name}: optim.steps {total(spec, False)}, but the study holds steps equal")
            case "images" if total(spec, True) != total(base, True):
                raise ValueError(f"arm {arm.name}: steps x batch differs, but the study holds images equal")
            case "passes":
                size, base_size = images_selected(spec), images_selected(base)
                if size is None or base_size is None:
                    raise ValueError(f"arm {arm.name}: equal passes need a stage that states its number of images")
                return with_steps(spec, max(1, round(base.optim.steps * size / base_size)))
            case "flops":
                return with_steps(spec, max(1, round(spec.optim.steps * flops_of_run(base) / flops_of_run(spec))))
        return spec

    arms = tuple(arm.model_copy(update={"spec": arm_spec(arm)}) for arm in study.arms)
    return study.model_copy(update={"arms": arms})


def expand(study: Study) -> tuple[Cell, ...]:
    """The runs of a study, seed by seed, so that the first whole replicate of all arms is there early.

    Seeds are paired: each arm runs with each of them. Raises ValueError where two arms are one run.
    """
    cells, seen = [], dict[str, str]()
    for seed in study.seeds:
        for arm in equalised(_at(study, seed)).arms:
            spec = arm.spec.seeded(seed)
            run = run_id(spec)
            if run in seen:
                raise ValueError(f"the arms {seen[run]} and {arm.name} are one and the same run ({run})")
            seen[run] = arm.name
            cells.append(Cell(arm.name, seed, run, spec))
    return tuple(cells)


def _at(study: Study, seed: int) -> Study:
    """`study` with its arms as they are on one seed."""
    arms = [arm.model_copy(update={"spec": arm.at.get(seed, arm.spec)}) for arm in study.arms]
    return study.model_copy(update={"arms": tuple(arms)})
