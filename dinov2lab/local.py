"""`run` on this machine: a study with all that comes before and after it, or a recipe alone."""

from typing import TYPE_CHECKING

from dinov2lab import commands, overview, terminal, tuning
from dinov2lab.commands import Places, Share
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store.folders import Workspace

if TYPE_CHECKING:
    from dinov2lab.data.source import Roots


def run(found: Study | Cell, places: Places, share: Share, *, rerun: bool, dry_run: bool, as_json: bool) -> int:
    """The exit code. Raises ValueError."""
    if not isinstance(found, Study):
        commands.refuse("is for a study; a recipe is one run", jobs=share.jobs)
    if dry_run:
        _show_plan(found, places.workspace, as_json)
        return 0
    from dinov2lab.data.source import Roots

    roots = Roots(places.data, places.workspace.cache)
    if isinstance(found, Study):
        return _run_study(found, places, roots, share, rerun=rerun, as_json=as_json)
    return _run_recipe(found, places.workspace, roots, share, rerun=rerun, as_json=as_json)


def _show_plan(found: Study | Cell, workspace: Workspace, as_json: bool) -> None:
    if isinstance(found, Study) and found.untuned:
        tuning.show_tuning(found, workspace, as_json)
    else:
        cells = expand(found) if isinstance(found, Study) else (found,)
        terminal.show_plan(overview.planned(cells, workspace), as_json)


def _run_study(study: Study, places: Places, roots: "Roots", share: Share, *, rerun: bool, as_json: bool) -> int:
    """Tune its arms, where they are to be, and run it."""
    jobs, resources = commands.resources_for(share.jobs, share.device, share.nproc)
    resources = commands.in_parts(resources, share, expand(study))
    if study.untuned:
        study = tuning.tune_here(study, places.workspace, roots, places.reports, jobs, resources)
    report = places.reports / study.name
    failed = commands.run_study(study, places.workspace, roots, report, jobs=jobs, resources=resources, rerun=rerun)
    terminal.show_verdict(study, commands.verdict_of(report), report, as_json)
    if failed:
        terminal.note(f"{terminal.plural(failed, 'run')} failed: dinov2lab status {study.name}")
    return int(failed > 0)


def _run_recipe(cell: Cell, workspace: Workspace, roots: "Roots", share: Share, *, rerun: bool, as_json: bool) -> int:
    _, resources = commands.resources_for(1, share.device, share.nproc)
    resources = commands.in_parts(resources, share, [cell])
    result = commands.run_recipe(cell, workspace, roots, resources, rerun=rerun)
    terminal.show_result(result, workspace.run(cell.run).path, as_json)
    return int(result.status == "failed")
