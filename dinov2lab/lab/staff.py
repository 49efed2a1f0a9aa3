"""The workers that a study or a search has on this machine: as many as it computes runs at a time."""

from collections import Counter

from dinov2lab.data.source import Roots
from dinov2lab.lab.devices import free_gpus
from dinov2lab.lab.outcome import give_up
from dinov2lab.lab.workers import Worker, cause, dismiss
from dinov2lab.spec.resources import Resources
from dinov2lab.store import disk
from dinov2lab.store.folders import Workspace

ENOUGH = 3  # times that all workers die before any of them has begun a run


class Staff:
    """Where there are GPUs that nobody uses, each worker sees as many of them as a run has processes."""

    def __init__(self, workspace: Workspace, roots: Roots, resources: Resources, jobs: int) -> None:
        self.jobs, self.workers = jobs, list[Worker]()
        self._workspace, self._stillborn = workspace, 0
        self._devices = free_gpus() if resources.device != "cpu" else ()
        self._processes = resources.processes
        self._place = {
            "workspace": str(workspace.path),
            "data": str(roots.data),
            "cache": str(roots.cache),
            "resources": resources.model_dump(mode="json"),
        }

    def hire(self) -> Worker:
        worker = Worker(self._place, self._least_loaded())
        self.workers.append(worker)
        return worker

    def _least_loaded(self) -> str | None:
        """The devices that fewest workers have, as many as a run wants; none where there is no choice."""
        load = Counter(device for worker in self.workers for device in (worker.device or "").split(","))
        return ",".join(sorted(self._devices, key=lambda device: load[device])[: self._processes]) or None

    def bury(self) -> None:
        """Take away the dead, and say of a run that kills its process again and again that it failed (attempts.py).

        Raises ValueError where processes die before they begin any run, which is none's fault, and where the disk is full.
        """
        ended = [worker for worker in self.workers if not worker.alive()]
        dead = [worker for worker in ended if worker.code != 0]
        begun = any(worker.begun for worker in self.workers)
        for worker in ended:
            self.workers.remove(worker)
        for worker in dead:
            if trouble := disk.trouble(self._workspace.path):
                raise ValueError(trouble)
            if worker.run is not None:
                give_up(self._workspace.run(worker.run), cause(worker.code))
        self._stillborn = 0 if begun else self._stillborn + len(dead)
        if self._stillborn >= ENOUGH * self.jobs:
            raise ValueError(
                f"{self._stillborn} workers died one after the other before they began a run, the last one of "
                f"{cause(dead[-1].code)}; see above"
            )

    def dismiss(self) -> None:
        """Ask all to write a checkpoint and leave, and wait for them."""
        dismiss(self.workers)
        self.workers.clear()
