"""curate(): a source in, the rows that a spec keeps out, and beside them the fate of every other row.

    read      every image once; what is no image falls                     (scan.py)
    leaks     copies of evaluation images fall, before anything else       (copying.py)
    stages    in the order of the spec                                     (copying.py, stages.py, arms.py)

Each step is a folder in the cache, named by its parent and by all that decides its rows, so that arms and seeds share
what they have in common. Rows are held in the order of their paths: the order of the source decides nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from dinov2lab.curation import arms, copying, stages
from dinov2lab.curation.cache import Result, stage_folder, sweep
from dinov2lab.curation.certificate import write_certificate
from dinov2lab.curation.embed import Redrawn
from dinov2lab.curation.index import Search
from dinov2lab.curation.inputs import Embed, Inputs, Read, Tell, silent
from dinov2lab.curation.near import near_copies
from dinov2lab.curation.shards import Cut, Pending
from dinov2lab.curation.stages import Left, left_of
from dinov2lab.data.source import Source
from dinov2lab.draws import Key
from dinov2lab.spec.curation import (
    Clusters,
    Control,
    CurationSpec,
    Duplicates,
    FlatClusters,
    HierarchicalClusters,
    InverseDensity,
    Leaks,
    Mixture,
    Quality,
    Retrieve,
    Sample,
    Stage,
    draws,
)
from dinov2lab.spec.embedders import Filters
from dinov2lab.store.manifest import ManifestFolder

__all__ = ["Embed", "certify", "curate", "share"]


def curate(
    train: Source,
    spec: CurationSpec | None,
    key: Key,
    *,
    open: Callable[[str], Source],
    embed: Embed,
    cache: Path,
    search: Search = Search(),
    tell: Tell = silent,
    shards: int = 1,
    append: bool = False,
) -> ManifestFolder:
    """The manifest of the images that `spec` keeps of `train`; without a spec, of all that can be read.

    `open` gives the sources that a spec names, `embed` the features of embedders other than thumbnails, `cache` holds
    the folders of the stages (its neighbour `embeddings` the features). `search` decides where and how is searched, and
    no row, but for the recall of an index that is not exact; `tell` hears how far it is. `shards` is in how many parts
    share() has done what it could. With `append`, what was found of a source before images were added to it is taken over
    (append.py, near.py). Raises ValueError where no image is left for a stage, or a source changes while it is read.
    """
    for folder in (cache, *(cache.parent / name for name in ("embeddings", "near", "filters"))):
        sweep(folder)
    inputs = Inputs(open, embed, cache, search, tell, Cut(shards), append)
    pool = inputs.read(train)
    if spec is None:
        return pool.folder
    return _chain(([spec.leaks] if spec.leaks else []) + [*spec.stages], pool.folder, pool, inputs, key)


def share(
    train: Source,
    spec: CurationSpec | None,
    cut: Cut,
    *,
    open: Callable[[str], Source],
    embed: Embed,
    cache: Path,
    search: Search = Search(),
    tell: Tell = silent,
) -> list[str]:
    """This process's part of what is done image by image: reading, embedding, looking for near copies, in this order.

    Returns what waits for the parts of others, in words: once they are done, the same call goes on from there.
    """
    inputs = Inputs(open, embed, cache, search, tell, cut)
    sources = [train, *map(open, spec.sources() if spec else ())]
    if waiting := _waiting([partial(inputs.read, source) for source in sources]):
        return waiting
    pool = inputs.read(train)
    steps = spec.steps() if spec else ()
    if waiting := _waiting([partial(_beside, step, pool, inputs) for step in steps]):
        return waiting
    if waiting := _waiting([work for step in steps for work in _embedding(step, pool, inputs)]):
        return waiting
    return _waiting([partial(near_copies, step, pool, inputs) for step in steps if _searches_pool(step)])


def _waiting(works: Sequence[Callable[[], object]]) -> list[str]:
    said = []
    for work in works:
        try:
            work()
        except Pending as pending:
            said.append(str(pending))
    return said


def _embedding(step: Leaks | Stage, pool: Read, inputs: Inputs) -> Iterator[Callable[[], object]]:
    """What a step needs of each image."""
    if isinstance(step, Quality):
        yield partial(inputs.measures, pool)
    elif (embedder := getattr(step, "embedder", None)) is not None:
        mirrored = getattr(step, "mirrored", False)
        named = _beside(step, pool, inputs)
        yield from (partial(inputs.features, embedder, read) for read in (pool, *named))
        turned = [pool, *named] if _searches_pool(step) else named
        yield from (partial(inputs.features, embedder, read, True) for read in turned if mirrored)


def _searches_pool(step: Leaks | Stage) -> TypeGuard[Leaks | Duplicates]:
    return isinstance(step, Duplicates) or (isinstance(step, Leaks) and step.rule == "component")


def _named(step: Leaks | Stage) -> tuple[str, ...]:
    """The sources that a step reads beside the pool."""
    match step:
        case Leaks():
            return step.against
        case Retrieve() | Clusters():
            return (step.queries,)
        case _:
            return ()


def _beside(step: Leaks | Stage, pool: Read, inputs: Inputs) -> list[Read]:
    """Those, as the step looks at them."""
    sources: list[Source] = [inputs.open(uri) for uri in _named(step)]
    if isinstance(step, Retrieve) and step.redrawn:
        kept = pool.folder.table("kept")
        assert kept is not None  # every folder has it
        sides = np.minimum(kept["width"].to_numpy(), kept["height"].to_numpy())
        sources = [Redrawn(source, sides) for source in sources]
    return [inputs.read(source) for source in sources]


def _trained_on(step: Leaks | Stage) -> tuple[str, ...]:
    embedder = getattr(step, "embedder", None)
    return (embedder.train,) if isinstance(embedder, Filters) else ()


def certify(
    folder: ManifestFolder,
    train: Source,
    spec: CurationSpec | None,
    against: Sequence[str],
    *,
    open: Callable[[str], Source],
    embed: Embed,
    cache: Path,
    search: Search = Search(),
) -> Path:
    """The leak certificate of a manifest of `train` for the sets `against` and those that `spec` names.

    Near copies are found by the eyes that drop leaks; where no leaks are dropped, by those that would by default.
    """
    inputs = Inputs(open, embed, cache, search)
    leaks = spec.leaks if spec and spec.leaks else Leaks(against=tuple(against) or ("none",))
    named = dict.fromkeys((*against, *(spec.leaks.against if spec and spec.leaks else ())))
    sets = [inputs.read(open(uri)) for uri in named]
    return write_certificate(folder, inputs.read(train), sets, leaks, inputs)


def _chain(
    steps: Sequence[Leaks | Stage], folder: ManifestFolder, pool: Read, inputs: Inputs, key: Key
) -> ManifestFolder:
    for stage in steps:
        folder = _apply(stage, folder, pool, inputs, key)
    return folder


def _apply(stage: Leaks | Stage, parent: ManifestFolder, pool: Read, inputs: Inputs, key: Key) -> ManifestFolder:
    name = "leaks" if isinstance(stage, Leaks) else stage.stage
    table = parent.table("kept")
    if table is None or not len(table):
        raise ValueError(f"{pool.source.uri}: no image is left for stage {name!r}")
    others = _beside(stage, pool, inputs)
    inner = [_chain(part, parent, pool, inputs, key) for part in _inner(stage)]
    parameters = stage.model_dump(mode="json")
    if draws(stage):
        parameters |= {"seed": key.seed, "replicate": key.replicate}
    if beside := [*map(inputs.open, (*_named(stage), *_trained_on(stage)))]:
        parameters["sources"] = {source.uri: source.fingerprint() for source in beside}
    if inner:
        parameters["manifests"] = [folder.path.name for folder in inner]
    compute = partial(_result, stage, table, pool, others, inner, inputs, key)
    inputs.tell(f"stage {name}", 0, 1)
    folder = stage_folder(inputs.cache, parent, name, parameters, compute)
    inputs.tell(f"stage {name}", 1, 1)
    return folder


def _inner(stage: Leaks | Stage) -> list[Sequence[Stage]]:
    match stage:
        case Mixture():
            return [part.stages for part in stage.parts]
        case Control():
            return [stage.of]
        case _:
            return []


def _result(
    stage: Leaks | Stage,
    table: Any,
    pool: Read,
    others: Sequence[Read],
    inner: list[ManifestFolder],
    inputs: Inputs,
    key: Key,
) -> Result:
    left: Left = left_of(table, pool)
    match stage:
        case Leaks():
            return copying.leaks(stage, left, others, inputs)
        case Duplicates():
            return copying.duplicates(stage, left, inputs)
        case Quality():
            return stages.quality(stage, left, inputs)
        case Retrieve():
            return stages.retrieved(stage, left, others[0], inputs)
        case Clusters():
            return stages.clusters(stage, left, others[0], inputs, key)
        case FlatClusters():
            return stages.flat_clusters(stage, left, inputs, key)
        case HierarchicalClusters():
            return stages.hierarchical_clusters(stage, left, inputs, key)
        case InverseDensity():
            return stages.inverse_density(stage, left, inputs, key)
        case Sample():
            return stages.sample(stage, left, key)
        case Mixture():
            return arms.mixture(stage, left, inner, key)
        case Control():
            return arms.control(stage, left, inner[0], key)
