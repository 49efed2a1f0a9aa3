"""What curation is asked for: which images leave the pool, in which order, and by whose eyes (DINOv2, section 3 and A.3)."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from dinov2lab.spec.section import Count, Fraction, Section

if TYPE_CHECKING:
    from dinov2lab.spec.run import RunSpec


class Thumbnails(Section):
    """Embedder without weights: a small colour picture, its mean removed. For copies, not for meaning."""

    kind: Literal["thumbnails"] = "thumbnails"
    px: Count = 16


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


Embedder = Annotated[Thumbnails | TimmEmbedder | RunEmbedder, Field(discriminator="kind")]


class Leaks(Section):
    """Relative deduplication (DINOv2, appendix A.3): copies of evaluation images leave the pool before anything else."""

    against: Annotated[tuple[str, ...], Field(min_length=1)]
    embedder: Embedder = Thumbnails()
    threshold: Fraction = 0.9
    mirrored: bool = True


class Duplicates(Section):
    """Self-deduplication (A.3): one image is kept of each connected component of the graph of near copies."""

    stage: Literal["duplicates"]
    embedder: Embedder = Thumbnails()
    threshold: Fraction = 0.95
    neighbours: Count = 64
    mirrored: bool = True


class Retrieve(Section):
    """Sample-based retrieval (section 3): the pool images closest to the queries, nearest ranks first."""

    stage: Literal["retrieve"]
    queries: str
    embedder: Embedder
    images: Count


class Sample(Section):
    """A random sample, drawn by the run's seed; a smaller sample of one seed lies inside a larger one."""

    stage: Literal["sample"]
    images: Count


Stage = Annotated[Duplicates | Retrieve | Sample, Field(discriminator="stage")]


class CurationSpec(Section):
    leaks: Leaks | None = None
    stages: tuple[Stage, ...] = ()
