"""Example pictures of a manifest: some kept images, and some of each reason, beside the image that decided."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dinov2lab.data.source import Source, Unreadable, decode
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder

PX = 96  # longest side; smaller images stay as they are


def write_examples(
    folder: ManifestFolder, source: Source, per_reason: int = 8, *, open: Callable[[str], Source] | None = None
) -> Path:
    """examples.json and examples/*.png of a manifest of `source`, drawn once; returns the JSON file.

    {"kept": [{"path", "file", "score", "witness", "witness_file"}, ...], reason: [...]}; files are relative to the
    folder, and null where there is no picture: of what is unreadable, and of other sources' images without `open`.
    """
    file = folder.path / "examples.json"
    if not file.exists():
        with atomic.locked(folder.path.with_name(f"{folder.path.name}.lock")):
            if not file.exists():
                atomic.sweep(folder.path / "examples")
                pictures = Drawer(folder, source, open)
                atomic.write_json(file, {name: pictures.rows(table, per_reason) for name, table in _groups(folder)})
    return file


def _groups(folder: ManifestFolder) -> list[tuple[str, pa.Table]]:
    kept, ledger = folder.table("kept"), folder.table("ledger")
    assert kept is not None  # every folder has both
    assert ledger is not None
    reasons = sorted(set(ledger["reason"].to_pylist()))
    return [("kept", kept), *((reason, ledger.filter(pc.equal(ledger["reason"], reason))) for reason in reasons)]


class Drawer:
    """Draws small pictures of a manifest's images and of their witnesses, each once."""

    def __init__(self, folder: ManifestFolder, source: Source, open: Callable[[str], Source] | None) -> None:
        self._folder = folder.path / "examples"
        self._rows = {source.uri: {path: row for row, path in enumerate(source.paths)}}
        self._sources = {source.uri: source}
        self._own = source.uri
        others = {uri for record in folder.funnel() for uri in record.parameters.get("sources", {})}
        for uri in others if open else ():
            assert open is not None
            self._sources[uri] = open(uri)
            self._rows[uri] = {path: row for row, path in enumerate(self._sources[uri].paths)}

    def rows(self, table: pa.Table, count: int) -> list[dict[str, Any]]:
        return [self._row(row) for row in _spread(table, count).to_pylist()]

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        score, witness = row["score"], row["witness"]
        return {
            "path": row["path"],
            "file": self._draw(self._own, row["path"]),
            "score": None if np.isnan(score) else score,
            "witness": witness,
            "witness_file": None if witness is None else self._draw(*self._place(witness)),
        }

    def own(self, path: str) -> dict[str, str | None]:
        return {"path": path, "file": self._draw(self._own, path)}

    def witness(self, name: str) -> dict[str, str | None]:
        return {"path": name, "file": self._draw(*self._place(name))}

    def _place(self, witness: str) -> tuple[str, str]:
        """The source and the path of a witness: "URI path" of a source that a stage named, else a path of the pool."""
        for uri in self._sources:
            if uri != self._own and witness.startswith(f"{uri} "):
                return uri, witness[len(uri) + 1 :]
        return self._own, witness

    def _draw(self, uri: str, path: str) -> str | None:
        row = self._rows[uri].get(path)
        if row is None:
            return None
        try:
            pixels = decode(self._sources[uri].read(row))
        except Unreadable:
            return None
        image = Image.fromarray(pixels)
        image.thumbnail((PX, PX))
        name = f"{hashlib.sha256(f'{uri} {path}'.encode()).hexdigest()[:16]}.png"
        atomic.write(self._folder / name, lambda temporary: image.save(temporary, "PNG"))
        return f"{self._folder.name}/{name}"


def _spread(table: pa.Table, count: int) -> pa.Table:
    """`count` rows, evenly from the best score to the worst; without scores, as their hashed paths fall."""
    names = [hashlib.sha256(path.encode()).hexdigest() for path in table["path"].to_pylist()]
    order = np.lexsort((names, -table["score"].to_numpy()))
    return table.take(order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))])
