"""Whether a report still says what is on disk: what it was drawn from is kept in the workspace, and compared by its looks.

studies/NAME.drawn holds, for each place that the study's report was written to, the runs and manifests that it read and
hashes over the names, sizes and times of their files, of the report's own files, and of the code that draws. To find that
nothing has changed no spec is expanded and no result is read. Imports no pandas, scipy or pyarrow.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dinov2lab.spec.study import Study, expand
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.studies import as_stored, past_of


def stands(study: Study, workspace: Workspace, out: Path, options: str) -> bool:
    """Whether the report in `out` was drawn from what there is now, with these options."""
    known = _known(study, workspace).get(str(out.resolve()))
    return known is not None and known == seen(study, workspace, known["runs"], options) | {
        "report": _looks(_files(out))
    }


def remember(study: Study, workspace: Workspace, out: Path, before: dict[str, Any]) -> None:
    """`before`: what `seen` said before the report was drawn, so that what changes meanwhile is drawn next time."""
    known = _known(study, workspace) | {str(out.resolve()): before | {"report": _looks(_files(out))}}
    atomic.write_text(_file(study, workspace), json.dumps(known))


def runs_of(study: Study, workspace: Workspace) -> list[list[str]]:
    """The id of each run, and the folder of its manifest where it is known."""
    return [[cell.run, _manifest(workspace.run(cell.run))] for cell in expand(study)]


def seen(study: Study, workspace: Workspace, runs: list[list[str]], options: str) -> dict[str, Any]:
    """What a report is drawn from, at this moment."""
    return {
        "study": hashlib.sha256(f"{as_stored(study)} {options}".encode()).hexdigest(),
        "runs": runs,
        "files": _looks(_sources(study, workspace, runs)),
        "code": _looks(_files(Path(__file__).parent)),
    }


def _sources(study: Study, workspace: Workspace, runs: list[list[str]]) -> Iterator[Path]:
    yield past_of(study, workspace)
    yield workspace.study(study.name)
    yield workspace.links(study.name)
    for folder in (workspace.run(run) for run, _ in runs):
        yield from (folder.result, folder.failure, folder.completion, folder.metrics, folder.provenance)
    for manifest in sorted({manifest for _, manifest in runs if manifest}):
        yield workspace.path / manifest


def _manifest(folder: RunFolder) -> str:
    """A run that has not begun has none; when it has, its provenance.json has changed."""
    return folder.read_provenance().get("manifest_folder") or ""


def _files(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix != ".pyc" and file.is_file())


def _looks(files: Iterable[Path]) -> str:
    """A hash over the name, size and time of each, or that it is not there."""
    total = hashlib.sha256()
    for file in files:
        try:
            state = file.stat()
            total.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
        except FileNotFoundError:
            total.update(f"{file} -\n".encode())
    return total.hexdigest()


def _known(study: Study, workspace: Workspace) -> dict[str, Any]:
    file = _file(study, workspace)
    try:
        known: dict[str, Any] = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):  # of another version: drawn again
        return {}
    return known


def _file(study: Study, workspace: Workspace) -> Path:
    return workspace.study(study.name).with_suffix(".drawn")
