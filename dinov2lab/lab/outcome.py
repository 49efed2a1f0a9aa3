"""The outcome of a run that came to no result. Imports no torch."""

import time

from dinov2lab.lab import provenance
from dinov2lab.store import atomic, attempts
from dinov2lab.store.result import RunFolder, RunResult
from dinov2lab.store.submission import last_words


def failure(folder: RunFolder, reason: str) -> RunResult:
    return RunResult(
        run=folder.path.name,
        status="failed",
        code=provenance.code_id(),
        commit=provenance.commit(),
        error=reason,
        finished_at=time.time(),
    )


def bury(folder: RunFolder, reason: str) -> None:
    """Say that a run whose process died has failed, with what it said last."""
    said = last_words(folder)
    folder.write_outcome(failure(folder, reason + (f"; its last words: {said}" if said else "")))


def give_up(folder: RunFolder, death: str) -> None:
    """Say that a run has failed whose process died of `death`, if it did too often (attempts.py) and nobody is at it."""
    if reason := attempts.exhausted(folder):
        with atomic.locked(folder.lock, wait=False) as mine:
            if mine and folder.outcome() is None:
                bury(folder, f"{reason}, the last time by {death}")
