"""By whose eyes images are compared: embedders give vectors, and the detector of copies a score of its own."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from dinov2lab.spec.section import Count, Section, later

if TYPE_CHECKING:
    from dinov2lab.spec.run import RunSpec


class Thumbnails(Section):
    """Embedder without weights: a small colour picture, its mean removed. For copies, not for meaning."""

    kind: Literal["thumbnails"] = "thumbnails"
    px: Count = 16


class Copies(Section):
    """The detector of copies that needs no weights: crops, borders, small turns, mirror images, light, tint, blur, JPEG.

    Its score is no cosine; see docs/copies.md for the thresholds that fit it.
    """

    kind: Literal["copies"]


class Layout(Section):
    """Embedder without weights: which colours and edges lie where. For likeness of composition, with retrieval by share."""

    kind: Literal["layout"]


class Filters(Section):
    """Embedder trained on the images of `train` alone, without labels and in seconds: small patterns by place, and layout.

    A pattern is `patch` pixels a side, of an image of `px`, and is looked for every `stride` pixels.
    """

    kind: Literal["filters"]
    train: str
    filters: Count = 200
    px: Annotated[int, Field(ge=8, multiple_of=8)] = later(absent=16)
    patch: Count = later(absent=5)
    stride: Count = later(absent=1)

    @model_validator(mode="after")
    def _has_two_places(self) -> Self:
        if self.patch + self.stride > self.px:
            raise ValueError(f"patch {self.patch} by stride {self.stride} is too large for px {self.px}: a pattern needs "
                             "a place in each half of the image")  # fmt: skip
        return self


class TimmEmbedder(Section):
    """A timm model with its public weights, where the machine has them."""

    kind: Literal["timm"]
    name: str
    px: Count = 224


class RunEmbedder(Section):
    """The teacher backbone of another run, which is trained first where it is missing."""

    kind: Literal["run"]
    run: "RunSpec"

    @model_validator(mode="after")
    def _stands_alone(self) -> Self:
        if self.run.curation is not None:
            raise ValueError("the run of an embedder must have no curation of its own")
        return self


Embedder = Annotated[Thumbnails | Layout | Filters | TimmEmbedder | RunEmbedder, Field(discriminator="kind")]
Detector = Annotated[Thumbnails | TimmEmbedder | RunEmbedder | Copies, Field(discriminator="kind")]
