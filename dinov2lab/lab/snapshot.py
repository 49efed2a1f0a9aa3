"""The package as it is now, kept for jobs that start later: what is edited while they wait changes nothing."""

import hashlib
import shutil
from pathlib import Path

from dinov2lab.lab.provenance import PACKAGE, RECORDED_COMMIT, commit
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace


def take(workspace: Workspace) -> Path:
    """A folder for PYTHONPATH that holds this package, made where there is none of the same content."""
    files = sorted(file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    contents = {file.relative_to(PACKAGE): file.read_bytes() for file in files if file != PACKAGE / RECORDED_COMMIT}
    digest = hashlib.sha256(repr(commit()).encode())
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    folder = workspace.snapshots / digest.hexdigest()[:12]

    def fill(path: Path) -> None:
        for name, content in contents.items():
            target = path / PACKAGE.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (path / PACKAGE.name / RECORDED_COMMIT).write_text(commit() or "")

    with atomic.locked(workspace.snapshots / "lock"):
        for leftover in workspace.snapshots.glob(".*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not folder.exists():
            atomic.write_folder(folder, fill)
    return folder.resolve()
