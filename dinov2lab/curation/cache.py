"""The stages on disk: each a folder named by all that decides its rows, computed once by whoever asks first."""

import functools
import hashlib
import inspect
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinov2lab.curation.arrays import write_rows
from dinov2lab.curation.vectors import Vectors
from dinov2lab.data import decode
from dinov2lab.spec.identity import content_id
from dinov2lab.store import atomic
from dinov2lab.store.manifest import Manifest, ManifestFolder, manifest_id

LEDGER = pa.schema(
    {"path": pa.string(), "stage": pa.string(), "reason": pa.string(), "witness": pa.string(), "score": pa.float64()}
)


@dataclass(frozen=True)
class Result:
    """What a stage decided: the rows it keeps, the fate of the others, and what it found on the way."""

    kept: pa.Table  # scan.KEPT
    fallen: pa.Table  # LEDGER, of this stage alone
    tables: dict[str, pa.Table] = field(default_factory=dict)  # pairs, leaks
    arrays: dict[str, Vectors] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    search: dict[str, float | int | str] = field(default_factory=dict)  # of an index that is not exact: its recall


@functools.cache
def code_id() -> str:
    """A hash of the source that decides which rows a stage keeps: other code has other folders."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(inspect.getfile(decode))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def stage_key(parent: ManifestFolder | None, stage: str, parameters: dict[str, Any]) -> str:
    return content_id([parent.path.name if parent else None, stage, parameters, code_id()])


def stage_folder(
    cache: Path,
    parent: ManifestFolder | None,
    stage: str,
    parameters: dict[str, Any],
    compute: Callable[[], Result],
) -> ManifestFolder:
    """The folder of a stage with these parameters on top of `parent`, computed where it is missing."""
    folder = ManifestFolder(cache / stage_key(parent, stage, parameters))
    if not folder.path.exists():
        with atomic.locked(cache / f"{folder.path.name}.lock"):
            if not folder.path.exists():  # another process may have been first
                result = compute()
                atomic.write_folder(folder.path, lambda path: _write(path, parent, stage, parameters, result))
    return folder


def sweep(cache: Path) -> None:
    """Remove what killed writers left behind: temporary names whose lock nobody holds."""
    for leftover in cache.glob(".*.tmp"):
        name = leftover.name[1:].rsplit(".", 2)[0]
        if not atomic.held(cache / f"{name}.lock"):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _write(path: Path, parent: ManifestFolder | None, stage: str, parameters: dict[str, Any], result: Result) -> None:
    """Fill a stage's folder; what its parent found is carried forward."""
    before = parent.read() if parent else None
    record = Manifest(
        id=_rows_id(result.kept),
        parent=before.id if before else None,
        stage=stage,
        parameters=parameters,
        rows=len(result.kept),
        dropped=dict(sorted(Counter(result.fallen["reason"].to_pylist()).items())),
        counts=result.counts,
        search=result.search,
    )
    ledger = pa.concat_tables([*_one(parent, "ledger"), result.fallen]).sort_by("path")
    unreadable = ledger.filter(pc.equal(ledger["stage"], "read")).select(["path", "reason"])
    tables = {"kept": result.kept, "ledger": ledger, "dropped": unreadable}
    for name in ("pairs", "leaks"):
        if found := [*_one(parent, name), *([result.tables[name]] if name in result.tables else [])]:
            tables[name] = pa.concat_tables(found)
    for name, table in tables.items():
        pq.write_table(table, path / f"{name}.parquet")
    for name, array in result.arrays.items():
        write_rows(path / f"{name}.npy", array)
    funnel = [*(parent.funnel() if parent else []), record]
    records = [json.loads(item.model_dump_json()) for item in funnel]
    atomic.write_json(path / "funnel.json", records)
    atomic.write_json(path / "manifest.json", records[-1])


def _rows_id(kept: pa.Table) -> str:
    paths, contents = kept["path"].to_pylist(), kept["content"].to_pylist()
    return manifest_id([f"{path}\n{content}" for path, content in zip(paths, contents, strict=True)])


def _one(folder: ManifestFolder | None, name: str) -> list[pa.Table]:
    """The table of a folder, or nothing where there is no folder or no such table."""
    table = folder.table(name) if folder else None
    return [] if table is None else [table]
