"""Slurm's own commands, for what needs no accounting database: the queue, one job, the end of jobs."""

import math
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dinov2lab.spec.nearest import did_you_mean

SECONDS = 60  # a busy controller answers late
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "CONFIGURING")


class SlurmError(ValueError):
    """Slurm refuses, or does not answer. One line."""


class Queued(NamedTuple):
    state: str
    reason: str
    name: str

    @property
    def waits(self) -> bool:
        return self.state in QUEUED


def queue() -> dict[str, Queued]:
    """Job id (12, or 12_3 of an array) -> the user's jobs that wait or run. Raises SlurmError."""
    found = {}
    for line in _ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r|%j").splitlines():
        job, state, reason, name = line.split("|", 3)
        found[job] = Queued(state, reason, name)
    return found


class Queue:
    """What squeue answered last, for those who look at it together."""

    def __init__(self) -> None:
        self.jobs = dict[str, Queued]()
        self._asked = -math.inf

    def ask(self, older_than: float = 0.0) -> None:
        """Once more, unless the last answer is of less than so many seconds ago. Raises SlurmError."""
        if time.monotonic() - self._asked >= older_than:
            self.jobs, self._asked = queue(), time.monotonic()


def there() -> bool:
    """Whether this machine has Slurm's commands."""
    try:
        subprocess.run(["squeue", "--version"], capture_output=True, check=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def state(job: str) -> str:
    """Of one job that may have ended; UNKNOWN once Slurm has forgotten it."""
    return _shown(job).get("JobState", "UNKNOWN")


def epitaph(job: str) -> str:
    """What Slurm still knows of a job that has ended: a few minutes long, in words such as `OUT_OF_MEMORY, on node7`."""
    shown = _shown(job)
    words = [shown.get("JobState", ""), _reason(shown.get("Reason", "")), _exit(shown.get("ExitCode", ""))]
    words += [f"on {shown['NodeList']}"] if shown.get("NodeList", "(null)") != "(null)" else []
    return ", ".join(word for word in words if word)


def _reason(reason: str) -> str:
    return "" if reason in ("", "None") else reason


def _exit(code: str) -> str:
    """Slurm writes STATUS:SIGNAL."""
    status, _, signal = code.partition(":")
    return f"signal {signal}" if signal not in ("", "0") else f"exit code {status}" if status not in ("", "0") else ""


def _shown(job: str) -> dict[str, str]:
    try:
        text = _ask("scontrol", "show", "job", "--oneliner", job)
    except SlurmError:
        return {}
    return dict(re.findall(r"(\w+)=(\S*)", text.splitlines()[0])) if text else {}


def cancel(jobs: Iterable[str]) -> None:
    if listed := sorted(jobs):
        _ask("scancel", *listed)


def requeue(job: str) -> None:
    _ask("scontrol", "requeue", job)


def refusal(script: Path) -> str | None:
    """Why sbatch would not take this script; None where it would. Nothing is submitted."""
    try:
        _ask("sbatch", "--test-only", str(script))
    except SlurmError as error:
        return _nearest(str(error))
    return None


def _nearest(refused: str) -> str:
    unknown = re.search(r"unrecognized option '--([a-z0-9-]+)", refused)
    if unknown is None:
        return refused
    known = re.findall(r"--([a-z][a-z0-9-]+)", _ask("sbatch", "--help"))
    return f"sbatch has no option --{unknown[1]}{did_you_mean(unknown[1], known)}"


def _ask(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {command[0]} on this machine; --launcher slurm needs a login node of a cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered within {SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        raise SlurmError(_first_line(command, error.stderr)) from None
    return answer.stdout


def _first_line(command: Sequence[str], said: str) -> str:
    lines = [line for line in said.strip().splitlines() if not line.startswith("Try ")]
    informative = [line for line in lines if "error:" in line or "unrecognized" in line] or lines or ["no reason given"]
    return informative[0] if informative[0].startswith(command[0]) else f"{command[0]}: {informative[0]}"
