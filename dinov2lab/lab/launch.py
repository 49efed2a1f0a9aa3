"""Running a study on this machine: workers that share the plan, failures that stay cells, a mirror that follows."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from dinov2lab.data.source import Roots, open_source
from dinov2lab.lab.outcome import bury
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store import atomic, attempts
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

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

    `on_change` is called about twice a second. Raises ValueError where a source cannot be opened; KeyboardInterrupt, after
    the workers have written their checkpoints.
    """
    cells = expand(study)
    for uri in sorted({uri for cell in cells for uri in cell.spec.sources()}):
        open_source(uri, roots)  # a wrong path is said once, and before anything starts
    for cell in cells:
        _make_way(workspace.run(cell.run), rerun=rerun)
    crew = _Crew(cells, workspace, roots, resources, jobs)
    try:
        while not crew.done():
            crew.staff()
            on_change()
            time.sleep(_POLL)
    finally:
        crew.dismiss()
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
        self, cells: Sequence[Cell], workspace: Workspace, roots: Roots, resources: Resources, jobs: int
    ) -> None:
        self._cells, self._workspace, self._jobs = cells, workspace, jobs
        self._plan: dict[str, object] = {
            "workspace": str(workspace.path),
            "data": str(roots.data),
            "cache": str(roots.cache),
            "resources": resources.model_dump(mode="json"),
        }
        self._workers: list[_Worker] = []

    def outcomes(self) -> list[RunResult]:
        found = [self._workspace.run(cell.run).outcome() for cell in self._cells]
        return [outcome for outcome in found if outcome is not None]

    def done(self) -> bool:
        return len(self.outcomes()) == len(self._cells)

    def staff(self) -> None:
        """Bury dead workers, and start new ones as long as there are runs that nobody computes."""
        for worker in [worker for worker in self._workers if not worker.alive()]:
            self._workers.remove(worker)
            if worker.code != 0 and worker.run is not None:
                self._died(worker.run, worker.code)
        taken = {worker.run for worker in self._workers}
        free = [cell for cell in self._cells if cell.run not in taken and self._open(self._workspace.run(cell.run))]
        idle = sum(worker.run is None for worker in self._workers)  # on their way to one of them
        for _ in range(min(self._jobs - len(self._workers), len(free) - idle)):
            self._workers.append(_Worker(self._plan | {"specs": [cell.spec.model_dump_json() for cell in self._cells]}))

    @staticmethod
    def _open(folder: RunFolder) -> bool:
        return not folder.result.exists() and not folder.failure.exists() and not atomic.held(folder.lock)

    def _died(self, run: str, code: int) -> None:
        folder = self._workspace.run(run)
        if folder.outcome() is None and (reason := attempts.exhausted(folder)):
            bury(folder, f"{reason}, the last time by {_cause(code)}")

    def dismiss(self) -> None:
        """Ask all workers to write a checkpoint and leave, and wait for them."""
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            worker.wait()


def _cause(code: int) -> str:
    if code == -9:
        return "signal 9 (killed by hand, or out of memory)"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class _Worker:
    def __init__(self, plan: dict[str, object]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dinov2lab.lab.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run: str | None = None  # the run it works on
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, run = line.strip().partition(" ")
            if word == "begin":
                self.run = run

    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int:
        return self._process.returncode or 0

    def ask_to_stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        """Until it has left; a second Ctrl-C ends it at once."""
        try:
            self._process.wait()
        except KeyboardInterrupt:
            self._process.kill()
            raise
