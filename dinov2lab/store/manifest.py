"""Manifest: which rows of a source a curation stage kept, and the counted reason of every other.

On disk a manifest is a folder: manifest.json (this record, written last) and Parquet tables beside it.

    kept.parquet     path, score        the rows that are left, in order; score is NaN where the stage gives none
    ledger.parquet   path, stage, reason, witness, score      each row that fell, at whichever stage up to this one
    dropped.parquet  path, reason       of the ledger, the images that could not be read
    pairs.parquet    a, b, score        near copies found
    leaks.parquet    path, reference, score     copies of evaluation images
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dinov2lab.spec.identity import content_id
from dinov2lab.store.result import Record


class Manifest(Record):
    id: str  # over the rows, see `manifest_id`
    parent: str | None  # id of the manifest that this stage started from; None for a source as it was read
    stage: str
    parameters: dict[str, Any]
    rows: int
    dropped: dict[str, int]  # reason -> images, by this stage alone


def manifest_id(keys: list[str]) -> str:
    """The id of a list of rows. A key names one image's content: path and the hash of its bytes."""
    return content_id(sorted(keys))


class ManifestFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "manifest.json"

    def read(self) -> Manifest | None:
        return Manifest.model_validate_json(self.record.read_bytes()) if self.record.exists() else None

    def table(self, name: str) -> pa.Table | None:
        """kept, ledger, dropped, pairs or leaks; None where no stage up to this one writes it."""
        file = self.path / f"{name}.parquet"
        return pq.read_table(file) if file.exists() else None
