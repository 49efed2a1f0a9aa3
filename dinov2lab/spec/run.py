"""RunSpec: every choice that changes the numbers of one run, and nothing else.

Durations are in steps, sizes in images or pixels, and the batch is global: nothing here depends on the machine.
The defaults are those of the released ViT-L/16 "short" recipe (facebookresearch/dinov2, vitl16_short.yaml).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dinov2lab.spec.curation import HOLDING_RECIPES, CurationSpec
from dinov2lab.spec.evaluation import EvaluationSpec
from dinov2lab.spec.model import ModelSpec, RunWeights
from dinov2lab.spec.section import Count, Fraction, NotNegative, Positive, Section, Steps, later


class DataSpec(Section):
    """Where the training images come from: `toyweb:PART`, `folder:PATH` or `parquet:PATH`."""

    train: str = "toyweb:pool"


class ColourJitter(Section):
    probability: Fraction = 0.8
    brightness: NotNegative = 0.4
    contrast: NotNegative = 0.4
    saturation: NotNegative = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1


class ViewsSpec(Section):
    """Multi-crop (two global crops, any number of local ones) and its photometric changes."""

    global_px: Count = 224
    global_scale: tuple[Fraction, Fraction] = (0.32, 1.0)
    local_crops: Annotated[int, Field(ge=0)] = 8
    local_px: Count = 96
    local_scale: tuple[Fraction, Fraction] = (0.05, 0.32)
    flip: Fraction = 0.5
    jitter: ColourJitter = ColourJitter()
    grey: Fraction = 0.2
    solarise: Fraction = 0.2  # of the second global crop only
    # `reference` blurs 0 %, 90 % and 50 % of global 1, global 2 and local crops: the released code passes 1 - p.
    blur: Literal["reference", "intended", "off"] = "reference"
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)  # pixels of the crop


class Head(Section):
    prototypes: Count = 65536
    hidden: Count = 2048
    bottleneck: Count = 256


class Dino(Section):
    weight: NotNegative = 1.0
    head: Head = Head()


class Masks(Section):
    """Block masks: which global crops are masked, and how much of each."""

    probability: Fraction = 0.5
    ratio: tuple[Fraction, Fraction] = (0.1, 0.5)


class Ibot(Section):
    weight: NotNegative = 1.0
    head: Head | None = None  # none: the patch tokens share DINO's head
    masks: Masks = Masks()
    tokens: Literal["masked", "all"] = later(absent="masked")  # which patches are compared with the teacher's


class Koleo(Section):
    """Spreads the class tokens of each global crop; acts in groups of so many images, fixed by position."""

    weight: NotNegative = 0.1
    group: Annotated[int, Field(ge=2)] = 32


class Teacher(Section):
    temperature_start: Positive = 0.04
    temperature: Positive = 0.07
    temperature_warmup_steps: Steps = 37500
    momentum: Fraction = 0.992
    momentum_end: Fraction = 1.0
    centering: Literal["sinkhorn", "ema"] = "ema"
    centre_momentum: Fraction = 0.9  # of centering: ema


class Distillation(Section):
    """A frozen teacher (section 5): another run's, heads and all, which is trained first where it is missing.

    The moving average of the student stays what is evaluated and kept. The paper drops masks and stochastic depth too, and
    compares all tokens: ibot.masks.probability 0, ibot.tokens all, model.drop_path 0.
    """

    kind: Literal["run"]
    run: "RunSpec"


class ObjectiveSpec(Section):
    dino: Dino = Dino()
    ibot: Ibot = Ibot()
    koleo: Koleo = Koleo()
    teacher: Teacher = Teacher()
    student_temperature: Positive = 0.1
    distill: Distillation | None = later(absent=None)  # none: the teacher is the moving average of the student

    @property
    def patch_head(self) -> Head:
        return self.ibot.head or self.dino.head


class OptimSpec(Section):
    """AdamW with a linear warm-up and a cosine. `lr` is the peak as it is used: no hidden scaling by the batch."""

    batch: Count = 2048
    steps: Count = 125000
    lr: Positive = 5.66e-3
    lr_end: NotNegative = 1e-6
    warmup_steps: Steps = 12500
    weight_decay: NotNegative = 0.04
    weight_decay_end: NotNegative = 0.4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip: Positive = 3.0  # gradient norm of backbone and of each head, separately
    layer_decay: Positive = 0.9
    patch_embed_lr: NotNegative = 0.2  # factor
    freeze_last_layer_steps: Steps = 1250
    freeze_backbone_steps: Steps = later(absent=0)  # in which new heads learn on top of weights from elsewhere
    warmup: Literal["linear", "cosine"] = later(absent="linear")  # its shape, from 0
    precision: Literal["fp32", "bf16"] = "fp32"
    deterministic: bool = False  # on CUDA, at a cost in speed; on CPU a run is always deterministic

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is longer than the run of {self.steps} steps")
        return self


class RunSpec(Section):
    data: DataSpec = DataSpec()
    curation: CurationSpec | None = None
    views: ViewsSpec = ViewsSpec()
    model: ModelSpec = Field(default_factory=lambda: ModelSpec())  # may hold another RunSpec, as the objective may
    objective: ObjectiveSpec = Field(default_factory=lambda: ObjectiveSpec())
    optim: OptimSpec = OptimSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int = 0
    replicate: int = 0  # an independent repetition: enters every random stream and changes nothing else

    def phases(self) -> tuple["RunSpec", ...]:
        """The runs whose networks this one goes on from, the first one first, and itself."""
        weights = self.model.weights
        return (*(weights.run.phases() if isinstance(weights, RunWeights) else ()), self)

    def seeded(self, seed: int) -> "RunSpec":
        """The same run with another seed, in all of its phases."""
        spec, weights = self.model_copy(update={"seed": seed}), self.model.weights
        if not isinstance(weights, RunWeights):
            return spec
        weights = weights.model_copy(update={"run": weights.run.seeded(seed)})
        return spec.model_copy(update={"model": self.model.model_copy(update={"weights": weights})})

    def sources(self) -> tuple[str, ...]:
        """The URIs of the images that the run reads, each once; those of its embedders are theirs."""
        return tuple(dict.fromkeys((*self._trained_by(), *self.evaluation.sources())))

    def only_evaluated_on(self) -> tuple[str, ...]:
        """Those of them that decide nothing of what is trained."""
        return tuple(uri for uri in self.evaluation.sources() if uri not in self._trained_by())

    def _trained_by(self) -> tuple[str, ...]:
        return (self.data.train, *(self.curation or CurationSpec()).sources())

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, px in (("global_px", self.views.global_px), ("local_px", self.views.local_px)):
            if px % self.model.patch:
                raise ValueError(f"views.{name} {px} is no multiple of model.patch {self.model.patch}")
        if self.objective.koleo.weight and self.optim.batch % self.objective.koleo.group:
            raise ValueError(
                f"optim.batch {self.optim.batch} is no multiple of objective.koleo.group {self.objective.koleo.group}"
            )
        self._fits_its_teacher()
        return self

    def _fits_its_teacher(self) -> None:
        """A frozen teacher's scores must be of as many prototypes, and its patches the student's."""
        distill, ours = self.objective.distill, self.objective
        if distill is None:
            return
        theirs, patches = distill.run.objective, bool(ours.ibot.weight)
        pairs = [
            ("objective.dino.head.prototypes", ours.dino.head.prototypes, theirs.dino.head.prototypes, True),
            ("objective.ibot.head.prototypes", ours.patch_head.prototypes, theirs.patch_head.prototypes, patches),
            ("model.patch", self.model.patch, distill.run.model.patch, patches),
        ]
        for name, our, their, matters in pairs:
            if matters and our != their:
                raise ValueError(f"{name} {our} must be that of objective.distill.run, {their}")


# A recipe may hold others, of its embedder and of the weights it begins with: here, where all are known, it is closed.
_KNOWN = {"RunSpec": RunSpec}
for _section in (*HOLDING_RECIPES, RunWeights, ModelSpec, Distillation, ObjectiveSpec, RunSpec):
    _section.model_rebuild(_types_namespace=_KNOWN)
