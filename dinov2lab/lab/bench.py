"""Worker processes of a search on this machine: one run each at a time, any number of runs one after the other."""

from typing import Protocol

from dinov2lab.data.source import Roots
from dinov2lab.lab.devices import free_gpus
from dinov2lab.lab.outcome import give_up
from dinov2lab.lab.workers import ENOUGH, Worker, cause, dismiss, least_loaded, place_of_work
from dinov2lab.spec.points import Planned
from dinov2lab.spec.resources import Resources
from dinov2lab.store import disk
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
    """Where there are GPUs that nobody uses, each process sees one of them alone."""

    def __init__(self, workspace: Workspace, roots: Roots, resources: Resources, jobs: int) -> None:
        self.jobs, self._workspace = jobs, workspace
        self._place = place_of_work(workspace, roots, resources)
        self._devices = free_gpus() if resources.device != "cpu" else ()
        self._workers: list[Worker] = []
        self._stillborn = 0

    def tend(self) -> None:
        """Bury the dead, and say of a run that kills its process again and again that it failed (attempts.py).

        Raises ValueError where processes die before they begin any run, which is none's fault, and where the disk is full.
        """
        dead = [worker for worker in self._workers if not worker.alive()]
        for worker in dead:
            self._workers.remove(worker)
            if worker.code != 0 and (trouble := disk.trouble(self._workspace.path)):
                raise ValueError(trouble)
            if worker.run is not None:
                give_up(self._workspace.run(worker.run), cause(worker.code))
        began = any(worker.begun for worker in (*self._workers, *dead))
        self._stillborn = 0 if began else self._stillborn + len(dead)
        if self._stillborn >= ENOUGH * self.jobs:
            raise ValueError(
                f"{self._stillborn} processes died one after the other before they began a run, the last one of "
                f"{cause(dead[-1].code)}; see above"
            )

    def free(self) -> bool:
        return sum(worker.run is not None for worker in self._workers) < self.jobs

    def computes(self, run: str) -> bool:
        return any(worker.run == run for worker in self._workers)

    def start(self, planned: Planned) -> None:
        worker = next((each for each in self._workers if each.run is None and each.alive()), None)
        if worker is None:
            worker = Worker(self._place, least_loaded(self._devices, self._workers))
            self._workers.append(worker)
        worker.run = planned.run
        worker.compute(planned.run, planned.spec)

    def stop(self, run: str) -> None:
        for worker in self._workers:
            if worker.run == run:
                worker.tell({"stop": run})

    def dismiss(self) -> None:
        """Ask all to write a checkpoint and leave, and wait for them."""
        dismiss(self._workers)
        self._workers.clear()
