"""What was given to Slurm: a folder for each launch of a study, and in a run's folder the job that is to compute it."""

import shutil
import time
import uuid
from pathlib import Path

from pydantic import ValidationError

from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import Record, RunFolder


class Submission(Record):
    """runs/ID/submission.json"""

    job: str  # Slurm's id: 12, or 12_3 of an array
    launch: str  # name of its folder
    log: Path  # what the job says on stderr
    submitted_at: float  # seconds since the epoch


class Jobs(Record):
    """jobs.json of a launch, written when all of it has been submitted: ids, arrays without their indices."""

    study: str
    stages: str | None
    arrays: tuple[str, ...]
    report: str | None  # none of a search, whose controller reports

    @property
    def all(self) -> tuple[str, ...]:
        return (*((self.stages,) if self.stages else ()), *self.arrays, *((self.report,) if self.report else ()))


class Launch:
    """slurm/NAME/ of a workspace: the plans of its jobs, submitit's files and, when it was sent whole, jobs.json.

    The name is the jobs' name in the queue too, so that jobs are found whose launcher was killed before it could write down
    their ids.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.record = path / "jobs.json"

    def jobs(self) -> Jobs | None:
        return Jobs.model_validate_json(self.record.read_bytes()) if self.record.exists() else None

    def keep(self, jobs: Jobs) -> None:
        """All of it has been sent."""
        atomic.write_text(self.record, jobs.model_dump_json(indent=1) + "\n")

    def forget(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def new_launch(workspace: Workspace, study: str) -> Launch:
    return Launch(workspace.slurm / f"{study}.{time.strftime('%m%d-%H%M%S')}.{uuid.uuid4().hex[:4]}")


def launches(workspace: Workspace) -> list[Launch]:
    return (
        [Launch(path) for path in sorted(workspace.slurm.iterdir()) if path.is_dir()]
        if workspace.slurm.exists()
        else []
    )


def of_study(workspace: Workspace, study: str) -> list[Jobs]:
    return [jobs for launch in launches(workspace) if (jobs := launch.jobs()) and jobs.study == study]


def submission(folder: RunFolder) -> Submission | None:
    try:
        return Submission.model_validate_json(folder.submission.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def record(folder: RunFolder, job: str, launch: Launch, log: Path) -> None:
    found = Submission(job=job, launch=launch.name, log=log, submitted_at=time.time())
    atomic.write_text(folder.submission, found.model_dump_json(indent=1) + "\n")


TAIL = 3  # lines


def last_words(folder: RunFolder) -> str:
    """The end of what the run's process said on stderr, in one line; empty where it said nothing.

    What srun adds when it ends the other tasks of a job comes last and would hide it: it counts where there is nothing else.
    """
    sent = submission(folder)
    for file in ((sent.log,) if sent else ()) + (folder.log,):
        if file.exists():
            with file.open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - 4000))
                lines = [line.strip() for line in opened.read().decode(errors="replace").splitlines() if line.strip()]
            own = [line for line in lines if not line.startswith("srun: ")]
            if said := (own or lines)[-TAIL:]:
                return " / ".join(said)[-600:]
    return ""
