"""curate(): a source in, the rows that a spec keeps out, and beside them the fate of every other row.

    read      every image once; what is no image falls                     (scan.py)
    leaks     copies of evaluation images fall, before anything else       (dedup.py)
    stages    duplicates, retrieve, sample, in the order of the spec       (dedup.py, retrieve.py)

Each step is a folder in the cache, named by its parent and by all that decides its rows, so that arms and seeds share
what they have in common. Rows are held in the order of their paths: the order of the source decides nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinov2lab.curation import retrieve
from dinov2lab.curation.cache import LEDGER, Result, stage_folder, sweep
from dinov2lab.curation.dedup import Rows, find_leaks, find_pairs, representatives
from dinov2lab.curation.index import Ints
from dinov2lab.curation.inputs import Embed, Inputs, Read
from dinov2lab.curation.scan import KEPT
from dinov2lab.data.source import Source
from dinov2lab.draws import Key
from dinov2lab.spec.curation import CurationSpec, Duplicates, Leaks, Retrieve, Sample
from dinov2lab.store.manifest import ManifestFolder

__all__ = ["Embed", "curate"]

PAIRS = pa.schema({"a": pa.string(), "b": pa.string(), "score": pa.float64()})
LEAKS = pa.schema({"path": pa.string(), "reference": pa.string(), "score": pa.float64()})


def curate(
    train: Source,
    spec: CurationSpec | None,
    key: Key,
    *,
    open: Callable[[str], Source],
    embed: Embed,
    cache: Path,
    device: str = "cpu",
) -> ManifestFolder:
    """The manifest of the images that `spec` keeps of `train`; without a spec, of all that can be read.

    `open` gives the sources that a spec names, `embed` the features of embedders other than thumbnails, `cache` holds
    the folders of the stages (its neighbour `embeddings` the features). `device` decides where is searched, and no
    row. Raises ValueError where no image is left for a stage, or a source changes while it is read.
    """
    sweep(cache)
    sweep(cache.parent / "embeddings")
    inputs = Inputs(open, embed, cache, device)
    pool = inputs.read(train)
    folder = pool.folder
    if spec is None:
        return folder
    for stage in (spec.leaks, *spec.stages):
        if stage is not None:
            folder = _apply(stage, folder, pool, inputs, key)
    return folder


def _apply(
    stage: Leaks | Duplicates | Retrieve | Sample, parent: ManifestFolder, pool: Read, inputs: Inputs, key: Key
) -> ManifestFolder:
    name = "leaks" if isinstance(stage, Leaks) else stage.stage
    parameters = stage.model_dump(mode="json")
    kept = parent.table("kept")
    if kept is None or not len(kept):
        raise ValueError(f"{pool.source.uri}: no image is left for stage {name!r}")
    match stage:
        case Leaks():
            others = [inputs.read(inputs.open(uri)) for uri in stage.against]
            compute = lambda: _leaks(stage, kept, pool, others, inputs)  # noqa: E731
        case Duplicates():
            others = []
            compute = lambda: _duplicates(stage, kept, pool, inputs)  # noqa: E731
        case Retrieve():
            others = [inputs.read(inputs.open(stage.queries))]
            compute = lambda: _retrieve(stage, kept, pool, others[0], inputs)  # noqa: E731
        case Sample():
            others = []
            parameters |= {"seed": key.seed, "replicate": key.replicate}
            compute = lambda: _sample(stage, kept, key)  # noqa: E731
    if others:
        parameters["sources"] = {other.source.uri: other.source.fingerprint() for other in others}
    return stage_folder(inputs.cache, parent, name, parameters, compute)


def _leaks(stage: Leaks, kept: pa.Table, pool: Read, others: Sequence[Read], inputs: Inputs) -> Result:
    rows = Rows(inputs.features(stage.embedder, pool)[_places(kept, pool)], None, _texts(kept, "pixels"))
    found = []
    fate = np.full(len(kept), -np.inf)
    witness = np.full(len(kept), None, object)
    saturated = 0
    for other in others:
        features = inputs.features(stage.embedder, other)
        mirrored = inputs.features(stage.embedder, other, mirror=True) if stage.mirrored else None
        pairs = find_leaks(rows, Rows(features, mirrored, other.pixels), stage.threshold, inputs.device)
        saturated += pairs.saturated
        for row, reference, score in zip(pairs.a.tolist(), pairs.b.tolist(), pairs.score.tolist(), strict=True):
            name = f"{other.source.uri} {other.paths[reference]}"
            found.append((row, name, score))
            if score > fate[row]:
                fate[row], witness[row] = score, name
    paths = kept["path"].to_pylist()
    found.sort(key=lambda leak: (leak[0], -leak[2], leak[1]))
    table = pa.table([[paths[row] for row, *_ in found], *([leak[n] for leak in found] for n in (1, 2))], schema=LEAKS)
    counts = {"leak_pairs": len(found), "references": sum(len(other.rows) for other in others), "saturated": saturated}
    return _split(kept, ~np.isfinite(fate), "leaks", "leak", witness, fate, tables={"leaks": table}, counts=counts)


def _duplicates(stage: Duplicates, kept: pa.Table, pool: Read, inputs: Inputs) -> Result:
    """Copies are looked for in the whole pool, so that those of images that fell before are told of too; who falls now is
    decided among the kept rows alone. These come first, for a set of exact copies is searched for by its first row.
    """
    count, places = len(kept), _places(kept, pool)
    order = np.concatenate([places, np.setdiff1d(np.arange(len(pool.rows)), places)])
    mirrored = inputs.features(stage.embedder, pool, mirror=True)[order] if stage.mirrored else None
    rows = Rows(inputs.features(stage.embedder, pool)[order], mirrored, pool.pixels[order])
    pairs = find_pairs(rows, stage.threshold, stage.neighbours, inputs.device)
    stands_for, score = representatives(rows.first(count), pairs.within(count))
    sizes = np.bincount(stands_for, minlength=count)
    paths = np.asarray(pool.paths, str)[order]
    named = sorted(zip(*np.sort([paths[pairs.a], paths[pairs.b]], axis=0).tolist(), pairs.score.tolist(), strict=True))
    table = pa.table([[pair[column] for pair in named] for column in range(3)], schema=PAIRS)
    counts = {
        "pairs": len(pairs.a),
        "components": int((sizes > 1).sum()),
        "largest_component": int(sizes.max()),
        "saturated": pairs.saturated,
    }
    witness = paths[stands_for].astype(object)
    stays = stands_for == np.arange(count)
    return _split(kept, stays, "duplicates", "duplicate", witness, score, tables={"pairs": table}, counts=counts)


def _retrieve(stage: Retrieve, kept: pa.Table, pool: Read, queries: Read, inputs: Inputs) -> Result:
    images = inputs.features(stage.embedder, pool)[_places(kept, pool)]
    seeds = inputs.features(stage.embedder, queries)
    taken = retrieve.retrieve(images, seeds, stage.images, inputs.device)
    query, score = np.empty(len(kept), np.int64), np.empty(len(kept))
    query[taken.rows], score[taken.rows] = taken.query, taken.score
    stays = np.zeros(len(kept), bool)
    stays[taken.rows] = True
    query[~stays], score[~stays] = retrieve.closest(images[~stays], seeds, inputs.device)
    names = np.array([f"{queries.source.uri} {path}" for path in queries.paths], object)
    counts = {
        "queries": len(queries.rows),
        "ranks": taken.ranks,
        "collisions": taken.collisions,
        "short": stage.images - len(taken.rows),
    }
    return _split(kept, stays, "retrieve", "not_retrieved", names[query], score, scored=True, counts=counts)


def _sample(stage: Sample, kept: pa.Table, key: Key) -> Result:
    names = np.char.add(np.char.add(_texts(kept, "content"), " "), _texts(kept, "path"))
    stays = np.zeros(len(kept), bool)
    stays[retrieve.sample(names, stage.images, key)] = True
    nobody, nothing = np.full(len(kept), None, object), np.full(len(kept), np.nan)
    counts = {"short": max(0, stage.images - len(kept))}
    return _split(kept, stays, "sample", "not_sampled", nobody, nothing, counts=counts)


def _split(
    kept: pa.Table,
    stays: NDArray[np.bool_],
    stage: str,
    reason: str,
    witness: NDArray[np.object_],
    score: NDArray[np.float64],
    *,
    scored: bool = False,
    tables: dict[str, pa.Table] | None = None,
    counts: dict[str, int],
) -> Result:
    """The rows that stay, and the fate of those that fall; with `scored`, who stays has score and witness too."""
    left, gone = kept.filter(stays), ~stays
    if scored:
        columns = left.to_pydict() | {"score": score[stays], "witness": witness[stays].tolist()}
        left = pa.table(columns, schema=KEPT)
    ledger = {
        "path": kept.filter(gone)["path"],
        "stage": [stage] * int(gone.sum()),
        "reason": [reason] * int(gone.sum()),
        "witness": witness[gone].tolist(),
        "score": score[gone],
    }
    return Result(left, pa.table(ledger, schema=LEDGER), tables or {}, counts=counts)


def _places(kept: pa.Table, pool: Read) -> Ints:
    """(N,) where each kept row stands among all readable rows of its source; both are in the order of paths."""
    order = np.argsort(pool.rows)
    places: Ints = order[np.searchsorted(pool.rows[order], kept["row"].to_numpy())]
    return places


def _texts(table: pa.Table, name: str) -> NDArray[np.str_]:
    return np.asarray(table[name].to_pylist(), str)
