"""RunResult and the files of a run's folder: what every reader of runs goes through. Imports no torch."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dinov2lab.spec.run import RunSpec
from dinov2lab.store import atomic
from dinov2lab.store.reading import FOLDER, damaged, read, read_json


class Record(BaseModel):
    """A frozen record on disk. NaN and infinities are allowed: a run that blew up says so."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Cost(Record):
    images: int  # seen, counted once per pass
    flops: int  # that the method requires, see spec/cost.py
    seconds: float  # training and the looks taken during it, summed over resumes
    peak_memory_mb: float


class RunResult(Record):
    """What came out of a run. `metrics` holds the final values; their history is in metrics.jsonl."""

    run: str
    status: Literal["finished", "failed"]
    metrics: dict[str, float] = {}
    cost: Cost | None = None
    parameters: int | None = None  # of the backbone
    manifest: str | None = None  # id of the training images
    sources: dict[str, str] = {}  # URI -> fingerprint when it was read
    skipped: dict[str, str] = {}  # URI of what it was to be evaluated on and was not there -> why
    code: str  # hash of the source that makes numbers
    completed_by: str | None = None  # that of what measured later what had been skipped; in no file, see `outcome`
    commit: str | None = None
    environment: dict[str, str] = {}  # versions of the libraries and the device
    error: str | None = None
    verdict: str | None = None  # on the training's health, see training/collapse.py; None: nobody looked
    finished_at: float  # seconds since the epoch


class Completion(Record):
    """What was measured after a run's end on sets that had not been there: beside its result, which stays as it is."""

    metrics: dict[str, float]
    skipped: dict[str, str] = {}  # URI of what is still not there -> why
    sources: dict[str, str] = {}  # URI -> fingerprint when it was read
    code: str
    commit: str | None = None
    environment: dict[str, str] = {}
    finished_at: float  # seconds since the epoch


def rows_after(file: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The rows of a JSON lines file from byte `offset` on, and the offset at which the next one will start."""
    if not file.exists():
        return [], offset
    with file.open("rb") as stream:
        stream.seek(offset)
        whole, newline, _ = stream.read().rpartition(b"\n")
    try:
        return [json.loads(line) for line in whole.splitlines()], offset + len(whole) + len(newline)
    except ValueError as error:
        raise damaged(file, error, FOLDER) from error


class RunFolder:
    """runs/ID/ of a workspace: spec.json, provenance.json, metrics.jsonl, checkpoint.pt and, at the end, result.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.json"
        self.provenance = path / "provenance.json"
        self.metrics = path / "metrics.jsonl"
        self.vitals = path / "system.jsonl"  # what its machine was at, see lab/vitals.py
        self.checkpoint = path / "checkpoint.pt"
        self.backbone = path / "backbone.pt"  # the teacher's, once the run has finished
        self.best = path / "best.pt"  # the teacher's at its best look on val
        self.result = path / "result.json"
        self.failure = path / "failure.json"
        self.completion = path / "completion.json"  # what was measured later, of what the result says it skipped
        self.lock = path / "lock"
        self.heartbeat = path / "heartbeat.json"  # while a process computes it
        self.attempts = path / "attempts.jsonl"
        self.submission = path / "submission.json"  # the job that computes it, where Slurm does
        self.log = path / "log"  # what its process said on stderr, where it ran on this machine
        self.pictures = path / "pictures"
        self.evaluations = path / "evaluations"  # what was measured after the end, see store/evaluation.py
        self.diverged = path / "diverged.json"  # of a run that blew up: the step, and the images that it saw there

    def outcome(self) -> RunResult | None:
        """The result, with what was measured later of what it had skipped; else the failure, else None."""
        for file in (self.result, self.failure):
            if file.exists():
                found = read(
                    file, RunResult.model_validate_json, "delete it, and the next `dinov2lab run` ends the run anew"
                )
                return self._completed(found) if found.skipped else found
        return None

    def _completed(self, found: RunResult) -> RunResult:
        if not self.completion.exists():
            return found
        later = read(self.completion, Completion.model_validate_json)
        added = {"metrics": found.metrics | later.metrics, "sources": later.sources | found.sources}
        return found.model_copy(update=added | {"skipped": later.skipped, "completed_by": later.code})

    def read_provenance(self) -> dict[str, Any]:
        """What provenance.json says; nothing before the run has begun."""
        found: dict[str, Any] = read_json(self.provenance, FOLDER) if self.provenance.exists() else {}
        return found

    def read_spec(self) -> RunSpec:
        return read(self.spec, RunSpec.model_validate_json, FOLDER)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl: {"step": int, "images": int, "time": ms since the epoch, name: float, ...}.

        A last line that a kill left without its newline is dropped.
        """
        return self.rows_after(0)[0]

    def rows_after(self, offset: int) -> tuple[list[dict[str, Any]], int]:
        """The rows that start at byte `offset` or later, and the offset at which the next one will start."""
        return rows_after(self.metrics, offset)

    def lines(self) -> list[bytes]:
        """The rows of metrics.jsonl as they stand there, for a reader who wants few of many."""
        return self.metrics.read_bytes().rpartition(b"\n")[0].splitlines() if self.metrics.exists() else []

    def clear(self) -> None:
        """Forget the run, its lock excepted, which the caller holds."""
        self.result.unlink(missing_ok=True)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != self.lock:
                entry.unlink()

    def forget_failure(self) -> None:
        """For another try, which goes on from the last checkpoint."""
        for file in (self.failure, self.attempts, self.submission):
            file.unlink(missing_ok=True)

    def write_outcome(self, result: RunResult) -> None:
        file = self.result if result.status == "finished" else self.failure
        unsaid = {"completed_by"} if result.skipped else {"completed_by", "skipped"}
        atomic.write_text(file, result.model_dump_json(indent=1, exclude=unsaid) + "\n")
        if result.status == "finished":
            self.failure.unlink(missing_ok=True)
