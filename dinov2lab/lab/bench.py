"""Worker processes of a search on this machine: one run each at a time, any number of runs one after the other."""

from typing import Protocol

from dinov2lab.data.source import Roots
from dinov2lab.lab.staff import Staff
from dinov2lab.spec.points import Planned
from dinov2lab.spec.resources import Resources
from dinov2lab.store.folders import Workspace


class Bench(Protocol):
    """Where runs are computed. Their outcomes are read from disk, never from here."""

    jobs: int

    def tend(self) -> None: ...
    def free(self) -> bool: ...
    def computes(self, run: str) -> bool: ...
    def start(self, planned: Planned) -> None: ...
    def stop(self, run: str) -> None: ...
    def dismiss(self) -> None: ...


class LocalBench:
    """Workers that stay for the next run."""

    def __init__(self, workspace: Workspace, roots: Roots, resources: Resources, jobs: int) -> None:
        self.jobs, self._staff = jobs, Staff(workspace, roots, resources, jobs)

    def tend(self) -> None:
        self._staff.bury()

    def free(self) -> bool:
        return sum(worker.run is not None for worker in self._staff.workers) < self.jobs

    def computes(self, run: str) -> bool:
        return any(worker.run == run for worker in self._staff.workers)

    def start(self, planned: Planned) -> None:
        idle = (worker for worker in self._staff.workers if worker.run is None and worker.alive())
        worker = next(idle, None) or self._staff.hire()
        worker.run = planned.run
        worker.compute(planned.run, planned.spec)

    def stop(self, run: str) -> None:
        for worker in self._staff.workers:
            if worker.run == run:
                worker.tell({"stop": run})

    def dismiss(self) -> None:
        self._staff.dismiss()
