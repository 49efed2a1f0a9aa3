"""One manifest as a page: its funnel, what was kept and why the rest fell, groups of copies, leaks, what queries took."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dinov2lab.report.funnel import Examples, example, png, stage_of
from dinov2lab.report.tables import Run
from dinov2lab.spec.study import Study
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder

PER_REASON = 8
NONE: dict[str, Any] = {"largest": [], "weakest": [], "chains": [], "leaks": [], "taken": [], "sources": {}}


def write_page(folder: ManifestFolder, file: Path, title: str) -> None:
    """Writes one HTML file that needs no other; what is missing beside the manifest is left out."""
    environment = Environment(
        loader=PackageLoader("dinov2lab.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    funnel = folder.funnel()
    whole = max(1, funnel[0].rows + sum(funnel[0].dropped.values()))
    text = environment.get_template("curation.html.j2").render(
        title=title,
        manifest=funnel[-1].id,
        stages=[(stage_of(record, whole), record.counts, record.search) for record in funnel],
        examples=_examples(folder.path),
        groups=NONE | _with_images(folder.path, _json(folder.path / "groups.json")),
    )
    atomic.write_text(file, text)


def write_pages(study: Study, runs: Iterable[Run], out: Path) -> None:
    """ARM.html for each arm whose first run with a manifest has its pictures drawn."""
    drawn: dict[str, Path] = {}
    for run in runs:
        if run.manifest and (run.manifest / "groups.json").exists():
            drawn.setdefault(run.arm, run.manifest)
    for arm, folder in drawn.items():
        write_page(ManifestFolder(folder), out / f"{arm}.html", f"{study.name}, {arm}: what it is trained on")


def _json(file: Path) -> Any:
    return json.loads(file.read_bytes()) if file.exists() else {}


def _examples(folder: Path) -> list[Examples]:
    found = _json(folder / "examples.json")
    order = sorted(found, key=lambda name: name != "kept")
    return [Examples(name, tuple(example(folder, each) for each in found[name][:PER_REASON]), None) for name in order]


def _with_images(folder: Path, value: Any) -> Any:
    """`value` with every picture's file as a data URI."""
    if isinstance(value, list):
        return [_with_images(folder, each) for each in value]
    if isinstance(value, dict):
        if value.keys() == {"path", "file"}:
            return {"path": value["path"], "image": png(folder, value["file"])}
        return {name: _with_images(folder, each) for name, each in value.items()}
    return value
