"""What a launch would do, and whether there is anything left to do. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dinov2lab.lab.standing import standings
from dinov2lab.spec.cost import flops_of_run, images_of_run
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store.folders import Workspace
from dinov2lab.store.state import Standing, State, flops_per_second
from dinov2lab.store.studies import as_stored


class Planned(NamedTuple):
    """A run and what is left of it; `seconds` is None where nothing has been measured here yet."""

    cell: Cell
    state: State
    images: int
    flops: float
    seconds: float | None


def plan(cells: Sequence[Cell], workspace: Workspace) -> list[Planned]:
    """The costs that are left, at the speed of the runs that finished in this workspace."""
    speed = flops_per_second(workspace)

    def planned(cell: Cell, found: Standing) -> Planned:
        total = images_of_run(cell.spec)
        images = 0 if found.state == "done" else total - found.values.get("images", 0)
        flops = flops_of_run(cell.spec) * images / total
        return Planned(cell, found.state, images, flops, flops / speed if speed else None)

    return [planned(cell, found) for cell, found in zip(cells, standings(cells, workspace), strict=True)]


def is_finished(study: Study, workspace: Workspace, report: Path) -> bool:
    """Whether every run of `study` has a result and its `report` folder tells of them all, and of this very study."""
    stored, verdict = workspace.study(study.name), report / "verdict.json"
    results = [workspace.run(cell.run).result for cell in expand(study)]
    if not all(file.is_file() for file in (stored, verdict, *results)):
        return False
    newest = max(file.stat().st_mtime for file in results)
    return stored.read_text(encoding="utf-8") == as_stored(study) and verdict.stat().st_mtime >= newest
