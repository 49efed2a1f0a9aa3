"""What is here and how it stands, row by row: for tables and for --json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinov2lab.lab.plan import plan
from dinov2lab.lab.standing import standings
from dinov2lab.spec.cost import images_of_run
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import FOLDERS, SpecError, headline, kind_of, load_recipe, load_study
from dinov2lab.spec.load_search import load_search
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store import studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.state import Standing
from dinov2lab.store.trials import read_trials


def listing(workspace: Workspace) -> list[dict[str, Any]]:
    """A row for each study, recipe and search here."""
    return [
        _listed(file, workspace) for folder in dict.fromkeys(FOLDERS.values()) for file in sorted(folder.glob("*.yaml"))
    ]


def _listed(file: Path, workspace: Workspace) -> dict[str, Any]:
    """Of a file with mistakes, the first of them; of a search, its trials."""
    row: dict[str, Any] = {
        "name": file.stem,
        "kind": "study" if file.parent == FOLDERS["study"] else "recipe",
        "file": str(file),
    }
    row |= {"runs": 0, "done": 0}
    try:
        row["kind"] = kind = kind_of(file)
        if kind == "search":
            return row | _trials_of(load_search(file), workspace) | {"about": headline(file)}
        study = studies.tuned_here(load_study(file), workspace) if kind == "study" else None
        ids = [cell.run for cell in expand(study)] if study else [run_id(load_recipe(file))]
        done = 0 if study and study.untuned else sum(workspace.run(each).result.exists() for each in ids)
        return row | {"runs": len(ids), "done": done, "about": headline(file)}
    except SpecError as error:
        return row | {"about": str(error).splitlines()[0]}


def _trials_of(search: SearchSpec, workspace: Workspace) -> dict[str, int]:
    trials = read_trials(workspace.search(search.name))
    return {"runs": search.budget.trials or len(trials), "done": sum(trial.state != "running" for trial in trials)}


def plain(cell: Cell) -> dict[str, Any]:
    """What --json says of a run first."""
    return {"arm": cell.arm, "seed": cell.seed, "run": cell.run}


def states(study: Study, workspace: Workspace) -> list[dict[str, Any]]:
    cells = expand(study)
    return [_state(cell, found) for cell, found in zip(cells, standings(cells, workspace), strict=True)]


def _state(cell: Cell, found: Standing) -> dict[str, Any]:
    error = found.outcome.error if found.outcome else found.note if found.state == "lost" else None
    images = images_of_run(cell.spec)
    return plain(cell) | {
        "state": found.state,
        "images": images,
        "latest": found.values,
        "error": error,
        "note": found.note,
    }


def planned(cells: Sequence[Cell], workspace: Workspace) -> list[dict[str, Any]]:
    rows = plan(cells, workspace)
    costs = [{"state": row.state, "images": row.images, "flops": row.flops, "seconds": row.seconds} for row in rows]
    return [plain(row.cell) | cost for row, cost in zip(rows, costs, strict=True)]
