"""The runs of a search as Slurm jobs, one each: what a controller on a login node has computed, asks and tells by.

A run's submission.json names its job, so that a controller that is started anew, or beside another one, joins it. What the
queue does not know and what has left no outcome is sent again, as store/attempts.py allows.
"""

from dinov2lab.data.source import Roots
from dinov2lab.lab import slurm, snapshot, submit
from dinov2lab.lab.outcome import bury
from dinov2lab.spec.points import Planned
from dinov2lab.spec.resources import Slurm
from dinov2lab.spec.run import RunSpec
from dinov2lab.store import atomic, attempts
from dinov2lab.store.folders import Workspace
from dinov2lab.store.submission import submission

ASK_SECONDS = 3.0  # between two looks at the queue


class SlurmBench:
    """Raises SlurmError, here and whenever Slurm does not answer. Searches that go on side by side share a `queue`."""

    def __init__(
        self,
        name: str,
        base: RunSpec,
        workspace: Workspace,
        roots: Roots,
        profile: Slurm,
        jobs: int,
        queue: slurm.Queue | None = None,
    ) -> None:
        self.jobs, self._name, self._queue = jobs, name, queue or slurm.Queue()
        self._workspace, self._roots, self._profile = workspace, roots, profile
        submit.refuse_paths(workspace.path)
        with atomic.locked(workspace.slurm / "lock"):
            self._queue.ask()
            submit.forget_half_sent(workspace, self._queue.jobs)
            self._code = snapshot.take(workspace)
            submit.refuse_run(name, self._part("example", base), workspace, self._code)
        self._jobs = dict[str, str]()  # run -> its latest job
        self._ended = set[str]()  # jobs that were ended here

    def _part(self, run: str, spec: RunSpec) -> submit.Part:
        return submit.part_of_run(run, spec, self._profile, self._workspace, self._roots)

    def tend(self) -> None:
        self._queue.ask(older_than=ASK_SECONDS)

    def free(self) -> bool:
        return sum(job in self._queue.jobs for job in self._jobs.values()) < self.jobs

    def computes(self, run: str) -> bool:
        """Whether its job is in the queue: by a look from before the outcome was read, so that no end is missed."""
        job = self._job(run)
        return job is not None and job in self._queue.jobs

    def _job(self, run: str) -> str | None:
        """The latest, whoever sent it."""
        if sent := submission(self._workspace.run(run)):
            self._jobs[run] = sent.job
        return self._jobs.get(run)

    def start(self, planned: Planned) -> None:
        """Send the run's job, unless it has none of a future: then its outcome says why."""
        folder, before = self._workspace.run(planned.run), self._job(planned.run)
        with atomic.locked(self._workspace.slurm / "lock"):
            self._queue.ask()
            if self.computes(planned.run) or folder.outcome() is not None:
                return
            epitaph = slurm.epitaph(before) if before and before not in self._ended else ""
            if "CANCELLED" in epitaph:  # somebody meant it
                bury(folder, f"its job {before} was cancelled")
            elif reason := attempts.unsendable(folder):
                bury(folder, f"{reason}; job {before} is gone ({epitaph})" if epitaph else reason)
            else:
                job = submit.send_run(self._name, self._part(planned.run, planned.spec), self._workspace, self._code)
                self._jobs[planned.run] = job
                self._queue.jobs[job] = slurm.Queued("PENDING", "", self._name)

    def stop(self, run: str) -> None:
        job, folder = self._job(run), self._workspace.run(run)
        if job is not None and job in self._queue.jobs and folder.outcome() is None:
            self._ended.add(job)
            folder.submission.unlink(missing_ok=True)  # nobody is to take it for one that got lost
            slurm.cancel([job])

    def dismiss(self) -> None:
        """Jobs go on without the controller; the next one joins them."""
