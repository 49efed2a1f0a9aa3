"""What a manifest's page shows beyond single images: groups of copies, leaks, queries with what they took, composition.

groups.json beside the manifest, with pictures in examples/:

    largest, weakest, chains    groups of near copies: {"size", "diameter", "weakest", "members": [picture, ...]}; `diameter`
                                is the number of pairs between the two ends that are furthest apart: above 1, a chain
    leaks                       [[picture, picture, score], ...]
    taken                       [{"query": picture, "count", "taken": [picture, ...]}, ...]
    sources                     {source: [images read, images kept]}, by the first folder of their paths

A picture is {"path", "file"}; the file is relative to the folder, or null.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from dinov2lab.curation.arms import source_of
from dinov2lab.curation.gallery import Drawer
from dinov2lab.curation.vectors import Ints, Scores
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder

SHOWN, MEMBERS = 6, 8
LOOKED_AT = 200


def write_groups(folder: ManifestFolder, pictures: Drawer) -> Path:
    """Written once; returns the file."""
    file = folder.path / "groups.json"
    if not file.exists():
        found = _copies(folder, pictures) | {"leaks": _leaks(folder, pictures), "taken": _taken(folder, pictures)}
        atomic.write_json(file, found | {"sources": _sources(folder)})
    return file


def _copies(folder: ManifestFolder, pictures: Drawer) -> dict[str, Any]:
    table = folder.table("pairs")
    if table is None or not len(table):
        return {"largest": [], "weakest": [], "chains": []}
    paths, ends = np.unique(np.array([*table["a"].to_pylist(), *table["b"].to_pylist()], object), return_inverse=True)
    a, b = np.split(ends, 2)
    groups = components(len(paths), a, b, table["score"].to_numpy())
    orders = {
        "largest": np.argsort([-group["size"] for group in groups], kind="stable"),
        "weakest": np.argsort([group["weakest"] for group in groups], kind="stable"),
        "chains": np.argsort([-group["diameter"] for group in groups], kind="stable"),
    }
    chosen = {name: [groups[number] for number in order[:SHOWN]] for name, order in orders.items()}
    chosen["chains"] = [group for group in chosen["chains"] if group["diameter"] > 1]
    return {name: [_drawn(group, paths, pictures) for group in found] for name, found in chosen.items()}


def components(count: int, a: Ints, b: Ints, score: Scores) -> list[dict[str, Any]]:
    """Groups of rows joined by pairs: size, weakest pair, diameter (where there are circles, a lower bound), members.

    The members run along the diameter first, so that a chain shows as one. Of very many groups, the LOOKED_AT largest and
    as many with the weakest pairs.
    """
    graph = csr_array((np.ones(2 * len(a), np.int8), (np.r_[a, b], np.r_[b, a])), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    weakest = np.full(label.max() + 1, np.inf)
    np.minimum.at(weakest, label[a], score)
    order = np.argsort(label, kind="stable")
    ends = np.cumsum(np.bincount(label))
    sizes = np.diff(ends, prepend=0)
    found = []
    for number in np.union1d(np.argsort(-sizes, kind="stable")[:LOOKED_AT], np.argsort(weakest)[:LOOKED_AT]).tolist():
        rows = order[ends[number] - sizes[number] : ends[number]]
        line = _diameter(graph[rows][:, rows])
        members = [*line, *np.setdiff1d(np.arange(len(rows)), line).tolist()]
        group = {"size": len(rows), "weakest": float(weakest[number]), "diameter": len(line) - 1}
        found.append(group | {"members": rows[members].tolist()})
    return found


def _diameter(graph: csr_array) -> list[int]:
    """The rows along a longest shortest path of a connected graph, found by two passes: exact in trees."""
    end = int(breadth_first_order(graph, 0, directed=False)[0][-1])
    visited, before = breadth_first_order(graph, end, directed=False)
    line = [int(visited[-1])]
    while line[-1] != end:
        line.append(int(before[line[-1]]))
    return line


def _drawn(group: dict[str, Any], paths: Any, pictures: Drawer) -> dict[str, Any]:
    return group | {"members": [pictures.own(paths[row]) for row in group["members"][:MEMBERS]]}


def _leaks(folder: ManifestFolder, pictures: Drawer) -> list[Any]:
    table = folder.table("leaks")
    if table is None:
        return []
    rows = table.take(_spread(table["score"].to_numpy(), 2 * SHOWN)).to_pylist()
    return [[pictures.own(row["path"]), pictures.witness(row["reference"]), row["score"]] for row in rows]


def _taken(folder: ManifestFolder, pictures: Drawer) -> list[dict[str, Any]]:
    """The queries that took most, and some others, with their closest; of the last stage alone."""
    kept = _table(folder, "kept")
    last = folder.funnel()[-1]
    if last.stage not in ("retrieve", "clusters"):
        return []
    names, count = np.unique(np.array(kept["witness"].to_pylist(), str), return_counts=True)
    shown = []
    for number in np.argsort(-count, kind="stable")[_spread(count.astype(float), SHOWN)].tolist():
        own = kept.filter(pc.equal(kept["witness"], str(names[number])))
        best = own.take(np.argsort(-own["score"].to_numpy(), kind="stable")[:MEMBERS])["path"].to_pylist()
        query = pictures.witness(str(names[number]))
        shown.append({"query": query, "count": int(count[number]), "taken": [pictures.own(path) for path in best]})
    return shown


def _sources(folder: ManifestFolder) -> dict[str, list[int]]:
    kept, fallen = (_table(folder, name)["path"].to_pylist() for name in ("kept", "ledger"))
    found: dict[str, list[int]] = {}
    for place, paths in ((1, kept), (0, fallen)):
        for path in paths:
            counts = found.setdefault(source_of(path), [0, 0])
            counts[0] += 1
            counts[1] += place
    return dict(sorted(found.items(), key=lambda item: -item[1][0])[:20])


def _spread(order: Scores, count: int) -> Ints:
    """`count` places, evenly from the best to the worst."""
    ranked = np.argsort(-order, kind="stable")
    places: Ints = ranked[np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))]
    return places


def _table(folder: ManifestFolder, name: str) -> pa.Table:
    table = folder.table(name)
    assert table is not None  # every folder has both
    return table
