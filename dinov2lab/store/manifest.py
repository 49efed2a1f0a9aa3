"""Manifest: which rows of a source a curation stage kept, and the counted reason of every other.

On disk a manifest is a folder: manifest.json (this record, written last) and Parquet tables beside it.

    kept.parquet     path, score, witness, row, content, pixels, width, height    the rows that are left, in the order of
                     their paths: score and witness of the last stage that gave them (NaN and null where none did), the row's
                     index in the source, hashes of its bytes and of its decoded pixels, their size
    ledger.parquet   path, stage, reason, witness, score      each row that fell, at whichever stage up to this one
    dropped.parquet  path, reason       of the ledger, the images that could not be read
    pairs.parquet    a, b, score        near copies found
    leaks.parquet    path, reference, score     copies of evaluation images
    certificate.parquet, certificate.json      of a run's manifest: near copies of evaluation images that are left

A witness is the image that decided: a path of the same source or, for leaks and queries, "URI path". funnel.json holds the
records from the source as it was read down to this one.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from dinov2lab.spec.identity import content_id
from dinov2lab.store.reading import FOLDER, read, read_json
from dinov2lab.store.result import Record


class Manifest(Record):
    id: str  # over the rows, see `manifest_id`
    parent: str | None  # id of the manifest that this stage started from; None for a source as it was read
    stage: str
    parameters: dict[str, Any]
    rows: int
    dropped: dict[str, int]  # reason -> images, by this stage alone
    counts: dict[str, int] = Field(default={})  # what else a stage has to say, such as pairs found
    search: dict[str, float | int | str] = Field(default={})  # of an index that is not exact: its recall, as measured


def manifest_id(keys: list[str]) -> str:
    """The id of a list of rows. A key names one image's content: path and the hash of its bytes."""
    return content_id(sorted(keys))


class ManifestFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "manifest.json"
        self.funnel_file = path / "funnel.json"

    def read(self) -> Manifest | None:
        return read(self.record, Manifest.model_validate_json, FOLDER) if self.record.exists() else None

    def funnel(self) -> list[Manifest]:
        """The records from the source as it was read down to this one."""
        return [Manifest.model_validate(record) for record in read_json(self.funnel_file, FOLDER)]

    def table(self, name: str) -> pa.Table | None:
        """kept, ledger, dropped, pairs or leaks; None where no stage up to this one writes it."""
        file = self.path / f"{name}.parquet"
        return read(file, lambda _: pq.read_table(file), FOLDER) if file.exists() else None
