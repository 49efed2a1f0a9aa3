"""EvaluationSpec: what frozen features are measured by."""

from collections import Counter
from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dinov2lab.spec.section import Count, Positive, Section, later


class Knn(Section):
    """Weighted kNN on frozen features (Wu et al. 2018; DINOv2's protocol)."""

    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 20, 100, 200)
    temperature: Positive = 0.07
    shots: tuple[Count, ...] = later(absent=())  # few-shot: also with so many images of each class for a memory
    tries: Count = later(absent=5)  # such memories, drawn at random, over which is averaged


class Linear(Section):
    """Linear probes on frozen features, one for each learning rate and kind of features; the best on val is tested.

    Kinds (DINOv2, appendix B.3): the class tokens of the last `blocks` blocks, with the mean of the patch tokens or without.
    """

    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0)
    epochs: Count = 100
    batch: Count = 256
    blocks: Annotated[tuple[Literal[1, 4], ...], Field(min_length=1)] = later(absent=(1,))
    average: Annotated[tuple[bool, ...], Field(min_length=1)] = later(absent=(False,))


class Logistic(Section):
    """Logistic regression to its optimum, by the inverse strengths of an L2 penalty; the best on val is tested."""

    c: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


class Segmentation(Section):
    """Linear segmentation on frozen patch tokens of masked memory and test; the best learning rate on val is tested."""

    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.003, 0.01, 0.03, 0.1)
    epochs: Count = 10
    batch: Count = 256  # patches
    images: Count = 1000  # at most, of memory and of test: patches of many images fill a memory


class Depth(Section):
    """Linear depth on frozen patch tokens, as a choice among `bins` depths; the best learning rate on val is tested.

    `memory` and `test` know the depth of their pixels (a Parquet column `depth`).
    """

    memory: str = "toyweb:scenes"
    test: str | None = "toyweb:scenes_test"
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.003, 0.01, 0.03, 0.1)
    epochs: Count = 10
    batch: Count = 256  # patches
    images: Count = 1000  # at most, of memory and of test
    bins: Annotated[int, Field(ge=2, le=255)] = 32


class Shift(Section):
    """A further test set, of the same classes but taken otherwise: what is measured there is `test/NAME/...`."""

    name: Annotated[str, Field(pattern=r"^[\w.+=-]+$", max_length=40)]
    source: str


class Looks(Section):
    """What the looks during training see beside kNN and health of the teacher."""

    student: bool = True  # the student too
    segmentation: bool = True  # mean IoU on val, where `evaluation.segmentation` is there: dense quality may peak early


class EvaluationSpec(Section):
    """Labelled images. `val` is carved out of `memory`; `test` is used once, when the run has ended."""

    memory: str | None = "toyweb:queries"
    test: str | None = "toyweb:test"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    every: Count = 100000  # images between two kNN looks at val during training
    knn: Knn = Knn()
    linear: Linear | None = Linear()
    segmentation: Segmentation | None = later(absent=None)
    retrieval: bool = later(absent=False)  # mean average precision of memory, ranked for each image of test
    logistic: Logistic | None = later(absent=None)
    depth: Depth | None = later(absent=None)
    copies: str | None = later(absent=None)  # images, some of them copies of the memory's (a Parquet column `copy_of`)
    shifted: tuple[Shift, ...] = later(absent=())  # robustness
    revisited: str | None = later(absent=None)  # instance retrieval on revisited Oxford or Paris: revisited:PATH
    looks: Looks | None = later(absent=None)

    def named(self) -> dict[str, str]:
        """The URIs of what is evaluated on, by the field that names them."""
        found = {"memory": self.memory, "test": self.test, "copies": self.copies, "revisited": self.revisited}
        found |= {"depth.memory": self.depth.memory, "depth.test": self.depth.test} if self.depth else {}
        found |= {f"shifted.{shift.name}": shift.source for shift in self.shifted}
        return {f"evaluation.{name}": uri for name, uri in found.items() if uri is not None}

    def sources(self) -> tuple[str, ...]:
        """Those URIs, each once."""
        return tuple(dict.fromkeys(self.named().values()))

    def without(self, gone: Collection[str]) -> "EvaluationSpec":
        """What is left to be measured where there are no images at these URIs."""
        depth = self.depth if self.depth and self.depth.memory not in gone else None
        if depth and depth.test in gone:
            depth = depth.model_copy(update={"test": None})
        update = {name: None for name in ("memory", "test", "copies", "revisited") if getattr(self, name) in gone}
        shifted = tuple(shift for shift in self.shifted if shift.source not in gone)
        return self.model_copy(update=update | {"depth": depth, "shifted": shifted})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if twice := [name for name, times in Counter(shift.name for shift in self.shifted).items() if times > 1]:
            raise ValueError(f"shifted: two are called {twice[0]!r}")
        return self
