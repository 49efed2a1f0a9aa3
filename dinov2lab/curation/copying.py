"""The stages that look for copies: of evaluation images, and within the pool.

N rows that are left, M readable rows of the pool, both in the order of their paths
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dinov2lab.curation.cache import Result
from dinov2lab.curation.cluster import Centres, kmeans
from dinov2lab.curation.dedup import Pairs, Rows, among, distinct, find_leaks
from dinov2lab.curation.inputs import Inputs, Read, texts
from dinov2lab.curation.near import near_copies, rows_of
from dinov2lab.curation.rules import chained, places, representatives, typicality
from dinov2lab.curation.stages import Left, Verdict, measured
from dinov2lab.curation.vectors import Ints
from dinov2lab.spec.curation import Duplicates, Leaks
from dinov2lab.spec.embedders import Copies

PAIRS = pa.schema({"a": pa.string(), "b": pa.string(), "score": pa.float64()})
LEAKS = pa.schema({"path": pa.string(), "reference": pa.string(), "score": pa.float64()})


def leaks(stage: Leaks, left: Left, others: Sequence[Read], inputs: Inputs) -> Result:
    pictures = isinstance(stage.embedder, Copies)
    rows = Rows(left.vectors(inputs, stage.embedder), None, texts(left.table, "pixels"), pictures)
    found = []
    fate = np.full(len(left), -np.inf)
    witness = np.full(len(left), None, object)
    saturated, recalls = 0, []
    for other in others:
        features = inputs.features(stage.embedder, other)
        mirrored = inputs.features(stage.embedder, other, mirror=True) if stage.mirrored else None
        pairs = find_leaks(rows, Rows(features, mirrored, other.pixels, pictures), stage.threshold, inputs.search)
        saturated += pairs.saturated
        recalls += [pairs.recall] if pairs.recall else []
        for row, reference, score in zip(pairs.a.tolist(), pairs.b.tolist(), pairs.score.tolist(), strict=True):
            name = f"{other.source.uri} {other.paths[reference]}"
            found.append((row, name, score))
            if score > fate[row]:
                fate[row], witness[row] = score, name
    paths = left.table["path"].to_pylist()
    found.sort(key=lambda leak: (leak[0], -leak[2], leak[1]))
    table = pa.table([[paths[row] for row, *_ in found], *([leak[n] for leak in found] for n in (1, 2))], schema=LEAKS)
    counts = {"leak_pairs": len(found), "references": sum(len(other.rows) for other in others), "saturated": saturated}
    reason = np.full(len(left), "leak", object)
    if stage.rule == "component":
        _chain(stage, left, inputs, fate, witness, reason)
        counts["chained"] = int((reason == "chained_to_a_leak").sum())
    verdict = Verdict(~np.isfinite(fate), reason, witness, fate)
    recall = recalls[0].of_all(recalls) if recalls else None
    return verdict.result(left, "leaks", counts, tables={"leaks": table}, search=measured(recall))


def _chain(stage: Leaks, left: Left, inputs: Inputs, fate: np.ndarray, witness: np.ndarray, reason: np.ndarray) -> None:
    """What near copies chain to a leak falls with it: to the neighbour that is a step nearer to it."""
    pairs = among(near_copies(stage, left.pool, inputs).pairs, distinct(left.pool.pixels)[1][left.places], 64)
    leaked = np.flatnonzero(np.isfinite(fate))
    nearer, score = chained(leaked, pairs, len(left))
    also = np.setdiff1d(np.flatnonzero(nearer >= 0), leaked)
    fate[also], witness[also] = score[also], left.table["path"].take(nearer[also]).to_pylist()
    reason[also] = "chained_to_a_leak"


def duplicates(stage: Duplicates, left: Left, inputs: Inputs) -> Result:
    """Copies are looked for in the whole pool, so that those of images that fell before are told of too; who falls now is
    decided among the rows that are left. These come first: the first row of a set of exact copies stands for it in pairs.
    """
    count = len(left)
    order = np.concatenate([left.places, np.setdiff1d(np.arange(len(left.pool.rows)), left.places)])
    near, (_, member) = near_copies(stage, left.pool, inputs), distinct(left.pool.pixels)
    pairs = among(near.pairs, member[order], stage.neighbours)
    own = rows_of(stage, left.pool, inputs).chosen(left.places)
    stands_for, score = _decided(stage, own, pairs.within(count), left)
    sizes = np.bincount(stands_for, minlength=count)
    paths = np.array(left.pool.paths, object)[order]
    ends = np.sort([order[pairs.a], order[pairs.b]], axis=0)  # places in the pool are in the order of paths
    by_path = np.lexsort((ends[1], ends[0]))
    names = [pa.array(left.pool.paths).take(pa.array(end[by_path])) for end in ends]
    table = pa.table([*names, pairs.score[by_path]], schema=PAIRS)
    counts = {
        "pairs": len(pairs.a),
        "components": int((sizes > 1).sum()),
        "largest_component": int(sizes.max()),
        "saturated": pairs.saturated,
    }
    counts |= {"pairs_taken_over": near.taken_over} if near.taken_over else {}
    verdict = Verdict(stands_for == np.arange(count), "duplicate", paths[stands_for], score)
    return verdict.result(left, "duplicates", counts, tables={"pairs": table}, search=measured(pairs.recall))


def _decided(stage: Duplicates, rows: Rows, pairs: Pairs, left: Left) -> tuple[Ints, np.ndarray]:
    """Of `rules.representatives`, by the order and among the pairs that the stage asks for."""
    first = typicality(pairs, len(left))
    if stage.rule == "semdedup":
        label, score = Centres(kmeans(rows.features, stage.clusters, "semdedup")).scored(rows.features)
        pairs = pairs.only((label[pairs.a] == label[pairs.b]) | (rows.pixels[pairs.a] == rows.pixels[pairs.b]))
        first = np.rint(score * 1e6).astype(np.int64)
    match stage.keep:
        case "outlying":
            first = -first
        case "first":
            first = np.zeros(len(left), np.int64)
        case "largest":
            first = left.table["width"].to_numpy() * left.table["height"].to_numpy()
    return representatives(rows, pairs, stage.rule, places(first))
