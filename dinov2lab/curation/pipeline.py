"""curate(): a source in, the rows that a spec keeps out, and beside them the fate of every other row.

    read      every image once; what is no image falls                     (scan.py)
    leaks     copies of evaluation images fall, before anything else       (copying.py)
    stages    in the order of the spec                                     (copying.py, stages.py, arms.py)

Each step is a folder in the cache, named by its parent and by all that decides its rows, so that arms and seeds share
what they have in common. Rows are held in the order of their paths: the order of the source decides nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dinov2lab.curation import arms, copying, stages
from dinov2lab.curation.cache import Result, stage_folder, sweep
from dinov2lab.curation.certificate import write_certificate
from dinov2lab.curation.index import Search
from dinov2lab.curation.inputs import Embed, Inputs, Read, Tell, silent
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
)
from dinov2lab.store.manifest import ManifestFolder

__all__ = ["Embed", "certify", "curate"]


def curate(
    train: Source,
    spec: CurationSpec | None,
    key: Key,
    *,
    open: Callable[[str], Source],
    embed: Embed,
    cache: Path,
    search: Search = Search(),  # noqa: B008
    tell: Tell = silent,
) -> ManifestFolder:
    """The manifest of the images that `spec` keeps of `train`; without a spec, of all that can be read.

    `open` gives the sources that a spec names, `embed` the features of embedders other than thumbnails, `cache` holds
    the folders of the stages (its neighbour `embeddings` the features). `search` decides where and how is searched, and
    no row, but for the recall of an index that is not exact; `tell` hears how far it is. Raises ValueError where no
    image is left for a stage, or a source changes while it is read.
    """
    sweep(cache)
    sweep(cache.parent / "embeddings")
    inputs = Inputs(open, embed, cache, search, tell)
    pool = inputs.read(train)
    if spec is None:
        return pool.folder
    return _chain(([spec.leaks] if spec.leaks else []) + [*spec.stages], pool.folder, pool, inputs, key)


def certify(
    folder: ManifestFolder,
    train: Source,
    spec: CurationSpec | None,
    against: Sequence[str],
    *,
    open: Callable[[str], Source],
    embed: Embed,
    cache: Path,
    search: Search = Search(),  # noqa: B008
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
    uris = (
        stage.against if isinstance(stage, Leaks) else [stage.queries] if isinstance(stage, Retrieve | Clusters) else ()
    )
    others = [inputs.read(inputs.open(uri)) for uri in uris]
    inner = [_chain(part, parent, pool, inputs, key) for part in _inner(stage)]
    parameters = stage.model_dump(mode="json")
    if _draws(stage):
        parameters |= {"seed": key.seed, "replicate": key.replicate}
    if others:
        parameters["sources"] = {other.source.uri: other.source.fingerprint() for other in others}
    if inner:
        parameters["manifests"] = [folder.path.name for folder in inner]
    compute = partial(_result, stage, table, pool, others, inner, inputs, key)
    inputs.tell(name, 0, 1)
    folder = stage_folder(inputs.cache, parent, name, parameters, compute)
    inputs.tell(name, 1, 1)
    return folder


def _inner(stage: Leaks | Stage) -> list[Sequence[Stage]]:
    match stage:
        case Mixture():
            return [part.stages for part in stage.parts]
        case Control():
            return [stage.of]
        case _:
            return []


def _draws(stage: Leaks | Stage) -> bool:
    """Whether the run's seed decides anything."""
    by_chance = isinstance(stage, Sample | InverseDensity | Mixture | Control)
    return by_chance or getattr(stage, "pick", None) == "random"


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
