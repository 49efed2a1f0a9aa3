"""What curation is asked for: which images leave the pool, in which order, and by whose eyes (DINOv2, section 3 and A.3)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from dinov2lab.spec.embedders import Copies, Detector, Embedder, Filters, RunEmbedder, Thumbnails
from dinov2lab.spec.section import Count, Fraction, NotNegative, Positive, Section, Steps, later

if TYPE_CHECKING:
    from dinov2lab.spec.run import RunSpec


class Leaks(Section):
    """Relative deduplication (DINOv2, appendix A.3): copies of evaluation images leave the pool before anything else.

    `pair` drops what is itself within the threshold of an evaluation image; `component`, the paper's rule, all that is
    chained to it by near copies within the same threshold (the paper's is 0.45, by SSCD's eyes).
    """

    against: Annotated[tuple[str, ...], Field(min_length=1)]
    embedder: Detector = Thumbnails()
    threshold: Fraction = 0.9
    mirrored: bool = True
    rule: Literal["pair", "component"] = later(absent="pair")


class Duplicates(Section):
    """Self-deduplication (A.3): which images of the graph of near copies stay.

    components   one of each connected component (the paper)
    greedy       one after the other, each that is no near copy of one that stays
    semdedup     one after the other within k-means clusters, each that is no near copy of an earlier one, whether that
                 stays or not (SemDeDup, arXiv 2303.09540; its order is `outlying`)

    `keep` says who comes first: the most typical of its copies (for semdedup: of its cluster), the least typical, the
    first path, the largest picture.
    """

    stage: Literal["duplicates"]
    embedder: Detector = Thumbnails()
    threshold: Fraction = 0.95
    neighbours: Count = 64
    mirrored: bool = True
    rule: Literal["components", "greedy", "semdedup"] = later(absent="components")
    keep: Literal["central", "outlying", "first", "largest"] = later(absent="central")
    clusters: Count = later(absent=100)  # of rule: semdedup

    @model_validator(mode="after")
    def _has_clusters(self) -> Self:
        if self.rule == "semdedup" and isinstance(self.embedder, Copies):
            raise ValueError("rule: semdedup clusters vectors, and embedder copies has none; take another of the two")
        if self.clusters != 100 and self.rule != "semdedup":
            raise ValueError(f"clusters are those of rule: semdedup; rule: {self.rule} has none")
        return self


class Quality(Section):
    """What is too poor to learn from, each with a reason of its own; a bound that is not given drops nothing.

    The reasons in the order in which they are asked: small, elongated, blank, dark, blurred, over_compressed.
    """

    stage: Literal["quality"]
    min_px: Count | None = None  # of the shorter side
    max_aspect: Annotated[float, Field(ge=1)] | None = None  # longer by shorter side
    min_contrast: NotNegative | None = None  # standard deviation of the luminance, in grey levels
    min_luminance: NotNegative | None = None  # its mean, in grey levels
    min_sharpness: NotNegative | None = None  # mean absolute Laplacian by contrast, see curation/quality.py
    min_jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = None  # as the file's quantisation tables tell it


class Retrieve(Section):
    """Sample-based retrieval (section 3): the pool images closest to the queries, nearest ranks first.

    With `images` alone, rank after rank until so many are taken. With `per_query` (the paper's k: 4, or 32), each query
    takes so many: `collisions: keep` lets those that another query has taken be missing, `fill` goes down the query's
    list until it has its own. `images` then is a cap.

    `rule: share` asks of each pool image how many of its nearest `neighbours` among the queries and as many images drawn
    from the pool are queries, and takes the greatest shares: an image near to everything gains nothing by it. `whiten`:
    how far the features' principal directions are brought to one deviation first, by the pool's statistics.

    `rule: density` weighs all of both by their distance, exp((cosine - 1) / width), in place of counting the nearest;
    `mirrored` counts the queries' mirror images among them.

    `redrawn`: the queries are looked at after each was resized to the shorter side of some image of the pool and encoded
    anew, so that how files were made does not part them from images of their kind.
    """

    stage: Literal["retrieve"]
    queries: str
    embedder: Embedder
    images: Count | None = None
    per_query: Count | None = later(absent=None)
    collisions: Literal["fill", "keep"] = later(absent="fill")
    rule: Literal["ranks", "share", "density"] = later(absent="ranks")
    neighbours: Count = later(absent=100)  # of rule: share
    whiten: Fraction = later(absent=0.0)  # of rule: share
    width: Positive = later(absent=0.05)  # of rule: density
    mirrored: bool = later(absent=False)  # of rule: density
    redrawn: bool = later(absent=False)

    @model_validator(mode="after")
    def _shares_have_no_lists(self) -> Self:
        if self.rule != "ranks" and self.per_query is not None:
            raise ValueError(f"per_query is a length of lists, and rule: {self.rule} has none; give images")
        if self.rule != "share" and (self.neighbours, self.whiten) != (100, 0.0):
            raise ValueError(f"neighbours and whiten are those of rule: share; rule: {self.rule} has none")
        if self.rule != "density" and (self.width, self.mirrored) != (0.05, False):
            raise ValueError(f"width and mirrored are those of rule: density; rule: {self.rule} has none")
        return self

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if self.images is None and self.per_query is None:
            raise ValueError("how many? give images, or per_query")
        if self.collisions == "keep" and self.per_query is None:
            raise ValueError("collisions: keep needs per_query: `images` alone takes ranks until there are enough")
        return self


Pick = Literal[
    "random", "closest"
]  # which images of a cluster: drawn by the run's seed, or those closest to its centre


class Clusters(Section):
    """Cluster-based retrieval (section 3), for small query sets: images of the clusters that hold enough queries."""

    stage: Literal["clusters"]
    queries: str
    embedder: Embedder
    clusters: Count  # the paper: 100,000
    more_than: Steps = 3  # query images that a cluster must exceed
    per_cluster: Count = 10000
    images: Count | None = None  # cap (the paper: 1,000,000 a data set)
    pick: Pick = "random"


class FlatClusters(Section):
    """Balance: k-means, and of each cluster no more than a cap, which is set so that `images` come out."""

    stage: Literal["flat_clusters"]
    embedder: Embedder
    images: Count
    clusters: Count
    pick: Pick = "random"


class HierarchicalClusters(Section):
    """Balance by hierarchical k-means with resampling and hierarchical sampling (Vo et al., arXiv 2405.15613).

    `levels` from the images up: the number of clusters of each level, each level clustering the centres below it.
    """

    stage: Literal["hierarchical_clusters"]
    embedder: Embedder
    images: Count
    levels: Annotated[tuple[Count, ...], Field(min_length=1)]
    resamplings: Steps = 10  # of each level
    nearest: Count = 5  # points of each cluster that a resampling clusters anew
    pick: Pick = "random"


class InverseDensity(Section):
    """Balance: drawn without replacement, with weights that are distances to the `neighbours`-th neighbour, to a power."""

    stage: Literal["inverse_density"]
    embedder: Embedder
    images: Count
    neighbours: Count = 16
    power: Positive = 1.0


class Sample(Section):
    """A random sample, drawn by the run's seed; a smaller sample of one seed lies inside a larger one."""

    stage: Literal["sample"]
    images: Count


Plain = Duplicates | Quality | Retrieve | Clusters | FlatClusters | HierarchicalClusters | InverseDensity | Sample


class Part(Section):
    """What a mixture takes from one arm: a share of its images, relative to the other parts' shares."""

    share: Positive
    stages: tuple[Annotated[Plain, Field(discriminator="stage")], ...] = ()


class Mixture(Section):
    """Several arms, each from the same images, in given shares; an image that an earlier part has taken is passed over."""

    stage: Literal["mixture"]
    images: Count
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]


class Control(Section):
    """As many random images as the stages `of` would leave of the same images; with match: source, as many of each source.

    An image's source is the first folder of its path.
    """

    stage: Literal["control"]
    of: Annotated[tuple[Annotated[Plain | Mixture, Field(discriminator="stage")], ...], Field(min_length=1)]
    match: Literal["size", "source"] = "size"


Stage = Annotated[Plain | Mixture | Control, Field(discriminator="stage")]


class CurationSpec(Section):
    leaks: Leaks | None = None
    stages: tuple[Stage, ...] = ()

    def sources(self) -> tuple[str, ...]:
        """The URIs that it reads beside the pool, each once."""
        queries = (stage.queries for stage in _flattened(self.stages) if isinstance(stage, Retrieve | Clusters))
        embedders = (getattr(stage, "embedder", None) for stage in self.steps())
        trained_on = (each.train for each in embedders if isinstance(each, Filters))
        return tuple(dict.fromkeys((*(self.leaks.against if self.leaks else ()), *queries, *trained_on)))

    def steps(self) -> tuple[Leaks | Plain, ...]:
        """All of them, those inside mixtures and controls too."""
        return (*([self.leaks] if self.leaks else ()), *_flattened(self.stages))

    def draws(self) -> bool:
        """Whether a run's seed decides which images it is trained on."""
        return any(draws(stage) for stage in self.stages)

    def recipes(self) -> "tuple[RunSpec, ...]":
        """Of the runs that embed, each once."""
        found = [
            each.run for stage in self.steps() if isinstance(each := getattr(stage, "embedder", None), RunEmbedder)
        ]
        return tuple(recipe for place, recipe in enumerate(found) if recipe not in found[:place])


def draws(stage: Leaks | Stage) -> bool:
    """Whether a run's seed decides which images a stage keeps."""
    by_chance = isinstance(stage, Sample | InverseDensity | Mixture | Control)
    return by_chance or getattr(stage, "pick", None) == "random"


def _flattened(stages: tuple[Plain | Mixture | Control, ...]) -> Iterator[Plain]:
    """All stages, those inside mixtures and controls too."""
    for stage in stages:
        match stage:
            case Mixture():
                for part in stage.parts:
                    yield from _flattened(part.stages)
            case Control():
                yield from _flattened(stage.of)
            case _:
                yield stage


def images_left(stages: tuple[Plain | Mixture | Control, ...]) -> int | None:
    """How many images the last stage that states a number keeps; none where no stage does."""
    sizes = [
        images_left(stage.of) if isinstance(stage, Control) else getattr(stage, "images", None) for stage in stages
    ]
    stated = [size for size in sizes if size is not None]
    return stated[-1] if stated else None


# They may hold a recipe, that of their embedder, and are complete once run.py has closed the circle; inner ones first.
HOLDING_RECIPES = (
    *(RunEmbedder, Leaks, Duplicates, Retrieve, Clusters, FlatClusters, HierarchicalClusters, InverseDensity),
    *(Part, Mixture, Control, CurationSpec),
)
