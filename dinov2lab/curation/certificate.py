"""The leak certificate: which evaluation images have a near copy among the images of a manifest, over a sweep of thresholds.

certificate.json and certificate.parquet stand beside the manifest: the counts, and set, reference, path, score of every pair
down to the lowest threshold. Near copies are looked for in the whole pool, once for all manifests of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinov2lab.curation.cache import LEDGER, Result, stage_folder
from dinov2lab.curation.copying import LEAKS
from dinov2lab.curation.dedup import Rows, find_leaks
from dinov2lab.curation.inputs import Inputs, Read
from dinov2lab.spec.curation import Leaks
from dinov2lab.spec.embedders import Copies
from dinov2lab.spec.identity import canonical
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder

STEPS = (-0.1, -0.05, 0.0, 0.05)  # around the threshold at which leaks are dropped
PAIRS = pa.schema({"set": pa.string(), "reference": pa.string(), "path": pa.string(), "score": pa.float64()})


def sweep(threshold: float) -> tuple[float, ...]:
    """Rising; the last is that of equal pixels."""
    return tuple(sorted({round(threshold + step, 6) for step in STEPS if 0 <= threshold + step < 1} | {1.0}))


def write_certificate(folder: ManifestFolder, pool: Read, sets: Sequence[Read], leaks: Leaks, inputs: Inputs) -> Path:
    """certificate.json of a manifest of `pool`: for the images of `sets`, by the eyes of `leaks`, around its threshold."""
    file, thresholds = folder.path / "certificate.json", sweep(leaks.threshold)
    kept = folder.table("kept")
    assert kept is not None  # every folder has it
    with atomic.locked(folder.path.with_name(f"{folder.path.name}.lock")):
        near = [_near(pool, each, leaks, thresholds[0], inputs) for each in sets]
        found = [table.filter(pc.is_in(table["path"], kept["path"])) for table in near]
        pairs = [
            pa.table([[each.source.uri] * len(table), table["reference"], table["path"], table["score"]], schema=PAIRS)
            for each, table in zip(sets, found, strict=True)
        ]
        everything = pa.concat_tables([PAIRS.empty_table(), *pairs])
        atomic.write(folder.path / "certificate.parquet", lambda path: pq.write_table(everything, path))
        record = {
            "detector": canonical(leaks.embedder),
            "mirrored": leaks.mirrored,
            "images": len(kept),
            "sets": [_counts(each, table, thresholds) for each, table in zip(sets, pairs, strict=True)],
        }
        atomic.write_json(file, record)
    return file


def _counts(each: Read, pairs: pa.Table, thresholds: Sequence[float]) -> dict[str, Any]:
    reached = [pairs.filter(pc.greater_equal(pairs["score"], threshold)) for threshold in thresholds]
    found = [
        {"threshold": threshold, "images": pc.count_distinct(table["reference"]).as_py(), "pairs": len(table)}
        for threshold, table in zip(thresholds, reached, strict=True)
    ]
    return {"set": each.source.uri, "images": len(each.rows), "found": found}


def _near(pool: Read, other: Read, leaks: Leaks, lowest: float, inputs: Inputs) -> pa.Table:
    """LEAKS: the near copies of `other` among all readable images of `pool`, from the cache."""
    parameters = {
        "embedder": canonical(leaks.embedder),
        "mirrored": leaks.mirrored,
        "threshold": lowest,
        "source": {other.source.uri: other.source.fingerprint()},
    }

    def compute() -> Result:
        pictures = isinstance(leaks.embedder, Copies)
        mirrored = inputs.features(leaks.embedder, other, mirror=True) if leaks.mirrored else None
        references = Rows(inputs.features(leaks.embedder, other), mirrored, other.pixels, pictures)
        rows = Rows(inputs.features(leaks.embedder, pool), None, pool.pixels, pictures)
        pairs = find_leaks(rows, references, lowest, inputs.search)
        order = np.lexsort((pairs.b, pairs.a))
        paths = [[read.paths[row] for row in side[order]] for read, side in ((pool, pairs.a), (other, pairs.b))]
        table = pa.table([*paths, pairs.score[order]], schema=LEAKS)
        everybody = pool.folder.table("kept")
        return Result(everybody, LEDGER.empty_table(), tables={"leaks": table})

    found = stage_folder(inputs.cache, pool.folder, "near_copies", parameters, compute).table("leaks")
    assert found is not None  # written by compute
    return found
