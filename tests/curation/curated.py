"""curate() for tests, and what its manifests say."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from memory import MemorySource

from dinov2lab.curation.pipeline import curate, share
from dinov2lab.curation.shards import Cut
from dinov2lab.data.source import Source
from dinov2lab.draws import Key
from dinov2lab.spec.curation import CurationSpec
from dinov2lab.spec.embedders import Embedder
from dinov2lab.store.manifest import Manifest, ManifestFolder


def never(embedder: Embedder, source: Source, rows: Sequence[int]) -> np.ndarray:
    raise AssertionError("no network was asked for")


class Lab:
    """curate() with everything it needs but the source and the spec."""

    def __init__(self, path: Path, *sources: MemorySource) -> None:
        self.sources = {source.uri: source for source in sources}
        self.cache = path / "cache" / "manifests"

    def curate(
        self,
        pool: Source,
        spec: CurationSpec | None,
        key: Key = Key(0),
        embed=never,
        **how: object,
    ) -> ManifestFolder:
        return curate(pool, spec, key, open=self.sources.__getitem__, embed=embed, cache=self.cache, **how)

    def share(self, pool: Source, spec: CurationSpec | None, cut: Cut, embed=never) -> list[str]:
        return share(pool, spec, cut, open=self.sources.__getitem__, embed=embed, cache=self.cache)


def record(folder: ManifestFolder) -> Manifest:
    read = folder.read()
    assert read is not None
    return read


def column(folder: ManifestFolder, table: str, name: str = "path") -> list:
    return folder.table(table)[name].to_pylist()


def fates(folder: ManifestFolder) -> dict[str, dict]:
    return {row["path"]: row for row in folder.table("ledger").to_pylist()}


def without_row(table: pa.Table) -> str:
    return repr([{name: value for name, value in row.items() if name != "row"} for row in table.to_pylist()])
