"""How often a run was tried without getting further. After three times it has failed, so that the rest of a study goes on."""

import json
import time
from typing import Any, Literal

from dinov2lab.store.result import RunFolder

LIMIT = 3

What = Literal["submitted", "begun", "stopped"]


def note(folder: RunFolder, what: What) -> None:
    """One more line of attempts.jsonl: a job was sent, a process began, or one left when it was asked to."""
    row = {"what": what, "time": time.time(), **_reached(folder)}
    folder.attempts.parent.mkdir(parents=True, exist_ok=True)
    with folder.attempts.open("ab") as file:
        cut = file.tell() > 0 and not folder.attempts.read_bytes().endswith(b"\n")  # by a kill, in the middle of a line
        file.write(b"\n" * cut + json.dumps(row).encode() + b"\n")


def futile(folder: RunFolder, what: What) -> int:
    """How many of the last attempts began where the run still is, with nobody asking them to stop."""
    count, reached = 0, _reached(folder)
    for row in reversed(_rows(folder)):
        if row["what"] == "stopped" or {name: row.get(name) for name in reached} != reached:
            break
        count += row["what"] == what
    return count


def exhausted(folder: RunFolder) -> str | None:
    """Why no process should begin once more; None as long as one should."""
    if (deaths := futile(folder, "begun")) >= LIMIT:
        return f"its process died {deaths} times without getting past step {_reached(folder)['step']}"
    return None


def unsendable(folder: RunFolder) -> str | None:
    """Why no job should be sent once more: `exhausted`, or jobs that end before they begin."""
    if (jobs := futile(folder, "submitted")) >= LIMIT and exhausted(folder) is None:
        return f"{jobs} jobs ended without getting past step {_reached(folder)['step']}"
    return exhausted(folder)


def forget(folder: RunFolder) -> None:
    folder.attempts.unlink(missing_ok=True)


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.attempts.exists():
        return []
    return [json.loads(line) for line in folder.attempts.read_bytes().splitlines() if line.endswith(b"}")]


def _reached(folder: RunFolder) -> dict[str, Any]:
    """How far the run is on disk: its last row and its checkpoint, either of which is progress."""
    rows = folder.rows()
    saved = folder.checkpoint.stat().st_mtime_ns if folder.checkpoint.exists() else None
    return {"step": rows[-1]["step"] if rows else 0, "saved": saved}
