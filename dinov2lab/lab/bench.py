"""Worker processes of a search on this machine: one run each at a time, any number of runs one after the other."""

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Protocol

from dinov2lab.data.source import Roots
from dinov2lab.lab.provenance import code_id, commit
from dinov2lab.spec.points import Planned
from dinov2lab.spec.resources import Resources
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

ATTEMPTS = 3  # of a run whose process dies without having got any further


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
    def __init__(self, workspace: Workspace, roots: Roots, resources: Resources, jobs: int) -> None:
        self.jobs, self._workspace = jobs, workspace
        self._place: dict[str, object] = {
            "workspace": str(workspace.path),
            "data": str(roots.data),
            "cache": str(roots.cache),
            "resources": resources.model_dump(mode="json"),
        }
        self._workers: list[_Worker] = []
        self._deaths = dict[str, list[float]]()  # run -> what its checkpoint was at each death

    def tend(self) -> None:
        """Bury the dead, and say of a run that kills its process again and again that it failed."""
        for worker in [worker for worker in self._workers if not worker.alive()]:
            self._workers.remove(worker)
            if worker.run is not None:
                self._died(self._workspace.run(worker.run), worker.code)

    def _died(self, folder: RunFolder, code: int) -> None:
        reached = folder.checkpoint.stat().st_mtime if folder.checkpoint.exists() else 0.0
        deaths = self._deaths.setdefault(folder.path.name, [])
        deaths.append(reached)
        if deaths[-ATTEMPTS:] == [reached] * ATTEMPTS and folder.outcome() is None:
            cause = f"signal {-code}" if code < 0 else f"exit code {code}"
            reason = f"its process died {ATTEMPTS} times at the same place, the last time by {cause}"
            run, now = folder.path.name, time.time()
            folder.write_outcome(
                RunResult(run=run, status="failed", code=code_id(), commit=commit(), error=reason, finished_at=now)
            )

    def free(self) -> bool:
        return sum(worker.run is not None for worker in self._workers) < self.jobs

    def computes(self, run: str) -> bool:
        return any(worker.run == run for worker in self._workers)

    def start(self, planned: Planned) -> None:
        idle = [worker for worker in self._workers if worker.run is None and worker.alive()]
        if not idle:
            idle = [_Worker(self._place)]
            self._workers += idle
        idle[0].start(planned)

    def stop(self, run: str) -> None:
        for worker in self._workers:
            if worker.run == run:
                worker.tell({"stop": run})

    def dismiss(self) -> None:
        """Ask all to write a checkpoint and leave, and wait for them."""
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.wait()
        self._workers.clear()


class _Worker:
    def __init__(self, place: dict[str, object]) -> None:
        self.run: str | None = None  # the run it works on
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dinov2lab.lab.trial_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(place)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("end "):
                self.run = None

    def start(self, planned: Planned) -> None:
        self.run = planned.run
        self.tell({"run": planned.run, "spec": planned.spec.model_dump(mode="json")})

    def tell(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead: the next look at it finds out
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int:
        return self._process.returncode or 0

    def dismiss(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Until it has left; a second Ctrl-C ends it at once."""
        try:
            self._process.wait()
        except KeyboardInterrupt:
            self._process.kill()
            raise
