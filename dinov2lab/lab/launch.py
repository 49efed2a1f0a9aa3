"""Running a study on this machine: workers that share the plan, failures that stay cells, a mirror that follows."""

import time
from collections.abc import Callable, Sequence

from dinov2lab.data.source import Roots
from dinov2lab.lab.staff import Staff
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store import atomic, garbage
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder

_POLL = 0.5  # seconds


def run_study(
    study: Study,
    workspace: Workspace,
    roots: Roots,
    *,
    jobs: int,
    resources: Resources,
    rerun: bool,
    on_change: Callable[[], None],
) -> int:
    """Bring every run of `study` to an outcome and return how many failed. What has a result is left alone; what failed
    before is tried again, from its last checkpoint.

    `jobs` runs go on at a time. `on_change` is called about twice a second.
    Raises KeyboardInterrupt, after the workers have written their checkpoints; ValueError where none can begin.
    """
    cells = expand(study)
    garbage.sweep(workspace)
    for cell in cells:
        _make_way(workspace.run(cell.run), rerun=rerun)
    folders, staff = [workspace.run(cell.run) for cell in cells], Staff(workspace, roots, resources, jobs)
    try:
        while any(folder.outcome() is None for folder in folders):
            staff.bury()
            _hire(staff, cells, workspace)
            on_change()
            time.sleep(_POLL)
    finally:
        staff.dismiss()
    on_change()
    outcomes = [folder.outcome() for folder in folders]
    return sum(outcome is not None and outcome.status == "failed" for outcome in outcomes)


def _make_way(folder: RunFolder, *, rerun: bool) -> None:
    """For another try: a failure goes always, everything else where it was asked for."""
    with atomic.locked(folder.lock, wait=False) as mine:
        if mine and rerun:
            folder.clear()
        elif mine:
            folder.forget_failure()


def _hire(staff: Staff, cells: Sequence[Cell], workspace: Workspace) -> None:
    """As long as there are runs that nobody computes."""
    taken = {worker.run for worker in staff.workers}
    free = [cell for cell in cells if cell.run not in taken and _open(workspace.run(cell.run))]
    idle = sum(worker.run is None for worker in staff.workers)  # on their way to one of them
    for _ in range(min(staff.jobs - len(staff.workers), len(free) - idle)):
        worker = staff.hire()
        for cell in cells:
            worker.compute(cell.run, cell.spec)
        worker.tell({"last": True})


def _open(folder: RunFolder) -> bool:
    return not folder.result.exists() and not folder.failure.exists() and not atomic.held(folder.lock)
