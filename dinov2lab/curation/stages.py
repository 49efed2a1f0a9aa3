"""What a stage decides of the images that are left: copies, poor pictures, choices by queries, by clusters, by chance.

N rows that are left, M readable rows of the pool, both in the order of their paths
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinov2lab.curation import retrieve
from dinov2lab.curation.balance import Clustering, flat, foremost, hierarchy, places_within, quotas, spread_out
from dinov2lab.curation.cache import LEDGER, Result
from dinov2lab.curation.cluster import Centres, kmeans
from dinov2lab.curation.density import densities, shares, whitened
from dinov2lab.curation.inputs import Inputs, Read, texts
from dinov2lab.curation.neighbours import Recall, open_for, ranked, widened
from dinov2lab.curation.quality import failings
from dinov2lab.curation.scan import KEPT
from dinov2lab.curation.vectors import Chosen, Ints, Scores, Vectors
from dinov2lab.draws import Key, bits
from dinov2lab.spec.curation import (
    Clusters,
    FlatClusters,
    HierarchicalClusters,
    InverseDensity,
    Pick,
    Quality,
    Retrieve,
    Sample,
)
from dinov2lab.spec.embedders import Copies, Embedder

Names = NDArray[np.object_]
REFERENCE = 32768  # images of the pool that its density is measured by; all of fewer


class Left(NamedTuple):
    """The images that are left."""

    table: pa.Table  # scan.KEPT
    pool: Read
    places: Ints  # (N,) where each stands among the readable rows of the pool

    def __len__(self) -> int:
        return len(self.places)

    def vectors(self, inputs: Inputs, embedder: Embedder | Copies) -> Vectors:
        return Chosen(inputs.features(embedder, self.pool), self.places)

    def names(self) -> NDArray[np.bytes_]:
        """(N,) distinct, and the same wherever an image stands in its source: what is drawn is drawn by them."""
        return np.char.add(np.char.add(texts(self.table, "content"), b" "), texts(self.table, "path"))


def left_of(table: pa.Table, pool: Read) -> Left:
    order = np.argsort(pool.rows)
    return Left(table, pool, order[np.searchsorted(pool.rows[order], table["row"].to_numpy())])


class Verdict(NamedTuple):
    """Who stays, and why the others do not."""

    stays: NDArray[np.bool_]  # (N,)
    reason: str | Names  # one for all, or (N,)
    witness: Names | None = None  # (N,)
    score: Scores | None = None  # (N,)
    scored: bool = False  # whether who stays has witness and score too

    def result(self, left: Left, stage: str, counts: dict[str, int], **found: Any) -> Result:
        size = len(left)
        witness = np.full(size, None, object) if self.witness is None else self.witness
        score = np.full(size, np.nan) if self.score is None else self.score
        reason = np.full(size, self.reason, object) if isinstance(self.reason, str) else self.reason
        kept, gone = left.table.filter(self.stays), ~self.stays
        if self.scored:
            columns = {name: kept[name] for name in kept.column_names}
            columns |= {"score": score[self.stays], "witness": pa.array(witness[self.stays], pa.string())}
            kept = pa.table(columns, schema=KEPT)
        fallen = {
            "path": left.table["path"].filter(pa.array(gone)),
            "stage": pa.array([stage] * int(gone.sum()), pa.string()),
            "reason": pa.array(reason[gone], pa.string()),
            "witness": pa.array(witness[gone], pa.string()),
            "score": score[gone],
        }
        return Result(kept, pa.table(fallen, schema=LEDGER), counts=counts, **found)


def among(size: int, rows: Ints) -> NDArray[np.bool_]:
    """(N,) whether a row is one of `rows`."""
    stays = np.zeros(size, bool)
    stays[rows] = True
    return stays


def quality(stage: Quality, left: Left, inputs: Inputs) -> Result:
    reason, value = failings(np.asarray(inputs.measures(left.pool)[left.places]), stage)
    stays = np.array([each is None for each in reason], bool)
    return Verdict(stays, reason, score=value).result(left, stage.stage, {})


def retrieved(stage: Retrieve, left: Left, queries: Read, inputs: Inputs) -> Result:
    images, seeds = left.vectors(inputs, stage.embedder), inputs.features(stage.embedder, queries)
    if stage.rule != "ranks":
        turned = [inputs.features(stage.embedder, queries, mirror=True)] if stage.mirrored else []
        return _by_share(stage, left, named(queries), images, [seeds, *turned], inputs)
    if stage.per_query is None:
        assert stage.images is not None  # the spec has one of the two
        taken = retrieve.retrieve(images, seeds, stage.images, inputs.search)
    else:
        taken = retrieve.retrieve_each(images, seeds, stage.per_query, stage.collisions, stage.images, inputs.search)
    stays = among(len(left), taken.rows)
    query, score = np.empty(len(left), np.int64), np.empty(len(left))
    query[taken.rows], score[taken.rows] = taken.query, taken.score
    others = np.flatnonzero(~stays)
    query[others], score[others] = retrieve.closest(Chosen(images, others), seeds, inputs.search)
    counts = {"queries": len(seeds), "ranks": taken.ranks, "collisions": taken.collisions}
    if stage.collisions == "fill":
        asked = [stage.images, stage.per_query and stage.per_query * len(seeds)]
        counts["short"] = min(each for each in asked if each) - len(taken.rows)
    verdict = Verdict(stays, "not_retrieved", named(queries)[query], score, scored=True)
    return verdict.result(left, stage.stage, counts, search=measured(taken.recall))


def _by_share(
    stage: Retrieve, left: Left, names: Names, images: Vectors, seeds: list[Vectors], inputs: Inputs
) -> Result:
    """An image's score is its share, whether it stays or not. `seeds`: the queries and, perhaps, their mirror images."""
    reference = retrieve.sample(left.names(), REFERENCE if stage.rule == "density" else len(names), Key(0))
    if stage.rule == "density":
        found = densities(images, seeds, reference, stage.width)
    else:
        here, asked = whitened(images, seeds[0], stage.whiten) if stage.whiten else (images, seeds[0])
        found = shares(here, asked, reference, stage.neighbours, inputs.search)
    stays = among(len(left), found.order()[: stage.images])
    counts = {"queries": len(names), "reference": len(reference), "short": (stage.images or 0) - int(stays.sum())}
    verdict = Verdict(stays, "not_retrieved", names[found.query], found.share, scored=True)
    return verdict.result(left, stage.stage, counts)


def clusters(stage: Clusters, left: Left, queries: Read, inputs: Inputs, key: Key) -> Result:
    """An image falls because no queries, or too few, are in its cluster, or because its cluster has enough without it."""
    images, seeds = left.vectors(inputs, stage.embedder), inputs.features(stage.embedder, queries)
    centres = Centres(kmeans(images, stage.clusters, "clusters"))
    label, score = centres.scored(images)
    query_label, query_score = centres.scored(seeds)
    place = places_within(label, picking(stage.pick, score, left, key))
    rows = retrieve.of_clusters(
        label, place, query_label, more_than=stage.more_than, per_cluster=stage.per_cluster, images=stage.images
    )
    held = np.bincount(query_label, minlength=len(centres))
    reason = np.where(held[label] > stage.more_than, "enough_of_its_cluster", "no_cluster_of_queries").astype(object)
    typical = _first_queries(query_label, query_score, len(centres))
    witness = np.array([*named(queries), None], object)[typical[label]]
    counts = {
        "queries": len(seeds),
        "clusters": len(centres),
        "clusters_of_queries": int((held > stage.more_than).sum()),
    }
    counts["short"] = max(0, (stage.images or len(rows)) - len(rows))
    return Verdict(among(len(left), rows), reason, witness, score, scored=True).result(left, stage.stage, counts)


def _first_queries(label: Ints, score: Scores, count: int) -> Ints:
    """(K,) the query closest to each centre among those of its cluster, -1 where there is none."""
    order = np.lexsort((np.arange(len(label)), -score, label))
    held, first = np.unique(label[order], return_index=True)
    queries = np.full(count, -1)
    queries[held] = order[first]
    return queries


def flat_clusters(stage: FlatClusters, left: Left, inputs: Inputs, key: Key) -> Result:
    found = flat(left.vectors(inputs, stage.embedder), stage.clusters)
    return _capped([found], stage.images, stage.pick, left, key, stage.stage)


def hierarchical_clusters(stage: HierarchicalClusters, left: Left, inputs: Inputs, key: Key) -> Result:
    images = left.vectors(inputs, stage.embedder)
    levels = hierarchy(images, stage.levels, stage.resamplings, stage.nearest)
    return _capped(levels, stage.images, stage.pick, left, key, stage.stage)


def _capped(levels: list[Clustering], images: int, pick: Pick, left: Left, key: Key, stage: str) -> Result:
    """The witness of an image is the most typical one of its cluster."""
    label, score, centres = levels[0]
    place = places_within(label, picking(pick, score, left, key))
    rows = foremost(label, place, quotas(levels, images))
    typical = np.flatnonzero(places_within(label, -score) == 0)
    witness = np.full(len(centres), None, object)
    witness[label[typical]] = left.table["path"].take(typical).to_pylist()
    sizes = np.bincount(label, minlength=len(centres))
    counts = {"clusters": int((sizes > 0).sum()), "largest_cluster": int(sizes.max())}
    counts |= {"short": max(0, images - len(rows))}
    verdict = Verdict(among(len(left), rows), "enough_of_its_cluster", witness[label], score, scored=True)
    return verdict.result(left, stage, counts)


def inverse_density(stage: InverseDensity, left: Left, inputs: Inputs, key: Key) -> Result:
    """The witness is the neighbour whose distance is the weight; the score, its cosine."""
    images = left.vectors(inputs, stage.embedder)
    rank = min(stage.neighbours + 1, len(left))  # an image is its own neighbour
    index, kind = open_for(images, images, inputs.search)
    recall = widened(index, kind, images, rank)
    far, witness = np.empty(len(left)), np.empty(len(left), np.int64)
    for part in np.array_split(np.arange(len(left)), -(-len(left) // 4096)):
        scores, ids = ranked(index, images[part], rank)
        far[part], witness[part] = scores[:, -1], ids[:, -1]
    order = np.argsort(left.names(), kind="stable")  # drawn by names, as a sample is
    drawn = order[spread_out(np.sqrt(np.maximum(2 - 2 * far[order], 0)), stage.images, stage.power, key)]
    paths = np.array(left.table["path"].to_pylist(), object)
    verdict = Verdict(among(len(left), drawn), "not_drawn", paths[witness], far, scored=True)
    return verdict.result(left, stage.stage, {"short": max(0, stage.images - len(left))}, search=measured(recall))


def sample(stage: Sample, left: Left, key: Key) -> Result:
    rows = retrieve.sample(left.names(), stage.images, key)
    counts = {"short": max(0, stage.images - len(left))}
    return Verdict(among(len(left), rows), "not_sampled").result(left, stage.stage, counts)


def picking(pick: Pick, score: Scores, left: Left, key: Key) -> Scores:
    """(N,) the order in which images of a cluster are taken, the smallest first."""
    if pick == "closest":
        return -score
    drawn = np.empty(len(left))
    drawn[np.argsort(left.names(), kind="stable")] = bits(key, "cluster", np.arange(len(left)), 1)[:, 0] >> np.uint64(
        12
    )
    return drawn


def named(read: Read) -> Names:
    return np.array([f"{read.source.uri} {path}" for path in read.paths], object)


def measured(recall: Recall | None) -> dict[str, float | int | str]:
    return recall.record() if recall else {}
