"""Running a study on this machine: workers that share the plan, failures that stay cells, a mirror that follows."""

import time
from collections.abc import Callable, Sequence

from dinov2lab.data.source import Roots
from dinov2lab.lab.outcome import give_up
from dinov2lab.lab.workers import ENOUGH, Worker, cause, dismiss, least_loaded, place_of_work
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store import atomic, disk, garbage
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

_POLL = 0.5  # seconds


def run_study(
    study: Study,
    workspace: Workspace,
    roots: Roots,
    *,
    jobs: int,
    devices: Sequence[str],
    resources: Resources,
    rerun: bool,
    on_change: Callable[[], None],
) -> int:
    """Bring every run of `study` to an outcome and return how many failed. What has a result is left alone; what failed
    before is tried again, from its last checkpoint.

    `jobs` runs go on at a time, each on as many of `devices` as it has processes, where there are any. `on_change` is called
    about twice a second.
    Raises KeyboardInterrupt, after the workers have written their checkpoints; ValueError where none can begin.
    """
    cells = expand(study)
    garbage.sweep(workspace)
    for cell in cells:
        _make_way(workspace.run(cell.run), rerun=rerun)
    crew = _Crew(cells, workspace, roots, resources, jobs, devices)
    try:
        while not crew.done():
            crew.staff()
            on_change()
            time.sleep(_POLL)
    finally:
        dismiss(crew.workers)
    on_change()
    return sum(outcome.status == "failed" for outcome in crew.outcomes())


def _make_way(folder: RunFolder, *, rerun: bool) -> None:
    """For another try: a failure goes always, everything else where it was asked for."""
    with atomic.locked(folder.lock, wait=False) as mine:
        if mine and rerun:
            folder.clear()
        elif mine:
            folder.forget_failure()


class _Crew:
    """Worker processes over the cells of one study."""

    def __init__(
        self,
        cells: Sequence[Cell],
        workspace: Workspace,
        roots: Roots,
        resources: Resources,
        jobs: int,
        devices: Sequence[str],
    ) -> None:
        self._cells, self._workspace, self._jobs, self._devices = cells, workspace, jobs, devices
        self._place = place_of_work(workspace, roots, resources)
        self._stillborn, self._processes = 0, resources.processes
        self.workers: list[Worker] = []

    def outcomes(self) -> list[RunResult]:
        found = [self._workspace.run(cell.run).outcome() for cell in self._cells]
        return [outcome for outcome in found if outcome is not None]

    def done(self) -> bool:
        return len(self.outcomes()) == len(self._cells)

    def staff(self) -> None:
        """Bury dead workers, and start new ones as long as there are runs that nobody computes."""
        for worker in [worker for worker in self.workers if not worker.alive()]:
            self.workers.remove(worker)
            if worker.code != 0 and (trouble := disk.trouble(self._workspace.path)):
                raise ValueError(trouble)
            if worker.code != 0:
                self._died(worker.run, worker.code)
        taken = {worker.run for worker in self.workers}
        free = [cell for cell in self._cells if cell.run not in taken and self._open(self._workspace.run(cell.run))]
        idle = sum(worker.run is None for worker in self.workers)  # on their way to one of them
        for _ in range(min(self._jobs - len(self.workers), len(free) - idle)):
            worker = Worker(self._place, least_loaded(self._devices, self.workers, self._processes))
            self.workers.append(worker)
            for cell in self._cells:
                worker.compute(cell.run, cell.spec)
            worker.tell({"last": True})

    @staticmethod
    def _open(folder: RunFolder) -> bool:
        return not folder.result.exists() and not folder.failure.exists() and not atomic.held(folder.lock)

    def _died(self, run: str | None, code: int) -> None:
        self._stillborn = self._stillborn + 1 if run is None else 0
        if self._stillborn >= ENOUGH:
            raise ValueError(
                f"{ENOUGH} workers died one after the other before they began a run, of {cause(code)}; see above"
            )
        if run is not None:
            give_up(self._workspace.run(run), cause(code))
