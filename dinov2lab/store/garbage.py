"""What in a workspace no study needs: runs of no study or search, jobs and snapshots of the past, halves that a kill left.

Caches are left alone: whatever asks for the same stage finds it there. Nothing that a process or a job is at is ever listed.
"""

import re
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

from dinov2lab.spec.identity import ID_LENGTH, run_id
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.section import Section
from dinov2lab.spec.study import Study, expand
from dinov2lab.store import atomic, heartbeat
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.submission import launches


class Leftover(NamedTuple):
    path: Path
    why: str
    size: int  # bytes


def leftovers(workspace: Workspace, queued: Set[str]) -> list[Leftover]:
    """`queued` holds the names of the launches that have jobs with Slurm. Raises ValueError where a study cannot be read."""
    found = [*_runs(workspace), *_launches(workspace, queued), *_snapshots(workspace, queued), *_halves(workspace)]
    return [Leftover(path, why, _size(path)) for path, why in found]


def remove(found: list[Leftover]) -> None:
    """Once more not what somebody has begun to use in the meantime."""
    for each in found:
        if each.path.is_dir() and not each.path.is_symlink():
            if not atomic.held(each.path / "lock"):
                shutil.rmtree(each.path)
        else:
            each.path.unlink(missing_ok=True)


def _runs(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    needed = needed_runs(workspace)
    for path in sorted(workspace.runs.glob("*")):
        folder = RunFolder(path)
        if path.name not in needed and not atomic.held(folder.lock) and not heartbeat.alive(folder):
            yield path, "a run of no study or search here"


def needed_runs(workspace: Workspace) -> set[str]:
    """The runs of all studies that ran here, those that they begin from or embed with, and those of searches."""
    needed = set[str]()
    for file in sorted(workspace.studies.glob("*.json")):
        try:
            study = Study.model_validate_json(file.read_bytes())
        except ValueError:
            raise ValueError(
                f"{file}: was written by another version; run the study again, or delete the file"
            ) from None
        for cell in expand(study):
            needed |= set(_inside(cell.spec)) | _named(cell.spec.model_dump_json())
    for file in sorted(workspace.searches.rglob("*")):
        if file.is_file():
            needed |= _named(file.read_bytes().decode(errors="replace"))
    return needed


def _inside(spec: Section) -> Iterator[str]:
    """The run of a spec, and of all specs in it."""
    if isinstance(spec, RunSpec):
        yield run_id(spec)
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Section):
                yield from _inside(each)


def _named(text: str) -> set[str]:
    return set(re.findall(rf"\b[0-9a-f]{{{ID_LENGTH}}}\b", text))


def _launches(workspace: Workspace, queued: Set[str]) -> Iterator[tuple[Path, str]]:
    for launch in launches(workspace):
        runs = [workspace.run(plan.stem) for plan in launch.path.glob("*.json")]
        begun = [folder for folder in runs if folder.path.exists()]
        if launch.name not in queued and all(folder.outcome() for folder in begun):
            yield launch.path, "jobs that have ended"


def _snapshots(workspace: Workspace, queued: Set[str]) -> Iterator[tuple[Path, str]]:
    waiting = [launch for launch in launches(workspace) if launch.name in queued]
    scripts = [script.read_text() for launch in waiting for script in launch.path.glob("*_submission.sh")]
    for path in sorted(workspace.snapshots.glob("[0-9a-f]*")):
        if not any(path.name in script for script in scripts):
            yield path, "code that no job waits for"


def _halves(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """Temporary names beside a lock that nobody holds; MLflow's database keeps to itself."""
    places = ((workspace.runs, "*/.*.tmp"), (workspace.cache, "**/.*.tmp"), (workspace.snapshots, ".*.tmp"))
    for path in sorted(path for folder, pattern in places for path in folder.glob(pattern)):
        name = path.name[1:].rsplit(".", 2)[0]
        locks = (path.parent / "lock", path.parent / f"{name}.lock", path.parent / f"{Path(name).stem}.lock")
        if not any(atomic.held(lock) for lock in locks):
            yield path, "half a file that a kill left"


def sweep(workspace: Workspace) -> None:
    """Remove what killed writers left behind anywhere in the workspace."""
    for path, _ in _halves(workspace):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    return path.lstat().st_size
