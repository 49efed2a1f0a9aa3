"""Stages that are made of others: mixtures of arms, and random controls of the size that others come to.

N rows that are left, in the order of their paths
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinov2lab.curation.balance import places_within
from dinov2lab.curation.cache import Result
from dinov2lab.curation.cluster import apportion
from dinov2lab.curation.inputs import texts
from dinov2lab.curation.retrieve import sample
from dinov2lab.curation.stages import Left, Verdict, among
from dinov2lab.curation.vectors import Ints
from dinov2lab.draws import Key, bits
from dinov2lab.spec.curation import Control, Mixture
from dinov2lab.store.manifest import ManifestFolder


def mixture(stage: Mixture, left: Left, parts: list[ManifestFolder], key: Key) -> Result:
    """Each part takes its share of what it kept and no part before it took, at random where it has more."""
    quotas = apportion(_shares([part.share for part in stage.parts], stage.images), stage.images)
    names, rows, counts = left.names(), left.table["row"].to_numpy(), dict[str, int]()
    taken, score, witness = np.zeros(len(left), bool), np.full(len(left), np.nan), np.full(len(left), None, object)
    for number, (quota, folder) in enumerate(zip(quotas.tolist(), parts, strict=True), 1):
        kept = _table(folder, "kept")
        own = np.flatnonzero(among_rows(rows, kept["row"].to_numpy()))
        free = own[~taken[own]]
        chosen = free[sample(names[free], quota, key)]
        taken[chosen] = True
        place = {row: place for place, row in enumerate(kept["row"].to_pylist())}
        at = [place[row] for row in rows[chosen].tolist()]
        score[chosen], witness[chosen] = kept["score"].to_numpy()[at], kept["witness"].take(at).to_pylist()
        counts |= {f"part_{number}": len(chosen), f"part_{number}_taken_before": len(own) - len(free)}
    counts["short"] = stage.images - int(taken.sum())
    reason, because = _common_fate(left, parts)
    witness[~taken] = because[~taken]
    return Verdict(taken, reason, witness, score, scored=True).result(left, stage.stage, counts)


def _shares(shares: list[float], images: int) -> Ints:
    """Whole numbers that are to each other as `shares`, each no less than what it can get of `images`."""
    return np.ceil(np.array(shares) / sum(shares) * images * 1000).astype(np.int64)


def _common_fate(left: Left, parts: list[ManifestFolder]) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """(N,) the reason why an image fell, where it fell by one reason in every part, and (N,) the witness of that."""
    paths = texts(left.table, "path")
    reason, witness = np.full(len(left), "not_in_mixture", object), np.full(len(left), None, object)
    for number, folder in enumerate(parts):
        ledger = _table(folder, "ledger")
        fallen = texts(ledger, "path")
        here = np.full(len(left), "not_in_mixture", object)
        place = np.minimum(np.searchsorted(fallen, paths), max(0, len(fallen) - 1))
        hit = np.flatnonzero(fallen[place] == paths) if len(fallen) else np.empty(0, np.int64)
        here[hit] = ledger["reason"].take(place[hit]).to_pylist()
        if number:
            here[here != reason] = "not_in_mixture"
        else:
            witness[hit] = ledger["witness"].take(place[hit]).to_pylist()
        reason = here
    witness[reason == "not_in_mixture"] = None
    return reason, witness


def control(stage: Control, left: Left, matched: ManifestFolder, key: Key) -> Result:
    """As many images as `matched` has, of each source where the stage says so."""
    rows, kept = left.table["row"].to_numpy(), _table(matched, "kept")
    if stage.match == "size":
        drawn = sample(left.names(), len(kept), key)
        return Verdict(among(len(left), drawn), "not_sampled").result(left, stage.stage, {})
    sources, label = np.unique([source_of(path) for path in left.table["path"].to_pylist()], return_inverse=True)
    quota = np.bincount(label[among_rows(rows, kept["row"].to_numpy())], minlength=len(sources))
    order = np.empty(len(left))
    order[np.argsort(left.names(), kind="stable")] = bits(key, "control", np.arange(len(left)), 1)[:, 0] >> np.uint64(
        12
    )
    stays = places_within(label, order) < quota[label]
    return Verdict(stays, "not_sampled").result(left, stage.stage, {"sources": len(sources)})


def source_of(path: str) -> str:
    """The first folder of a path; without folders, nothing."""
    return path.split("/", 1)[0] if "/" in path else ""


def among_rows(rows: Ints, chosen: Ints) -> NDArray[np.bool_]:
    return np.isin(rows, chosen)


def _table(folder: ManifestFolder, name: str) -> pa.Table:
    table = folder.table(name)
    assert table is not None  # every folder has both
    return table
