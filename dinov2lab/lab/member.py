"""A process that trains runs together with a first one (team.py), from which it hears what: `member RANK OF PORT PARENT`.

It makes the views of its own images and writes nothing but a log. It dies with the first process, however that dies.
"""

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from dinov2lab.data.ahead import die_with
from dinov2lab.data.source import Roots
from dinov2lab.lab.execute import Stopped, never, train_along
from dinov2lab.lab.machine import device_of, tell_torch
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.training.distributed import Meeting, Place
from dinov2lab.training.step import Diverged


def main() -> None:
    faulthandler.enable()
    rank, of, port, parent = (int(word) for word in sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the first process decides
    die_with(parent)
    serve(Meeting(Place(rank, of, here=rank, port=port)), never, logs=True)


def serve(meeting: Meeting, stop: Callable[[], bool], *, logs: bool = False) -> None:
    """Carry out one order after the other until there is none, or nobody left to give one. `logs`: into the run's folder."""
    for turn in count(1):
        try:
            order = json.loads(meeting.hear(f"order {turn}"))
        except RuntimeError:
            return
        if order is None:
            meeting.tell(f"left {meeting.place.rank}", "yes")
            return
        try:
            _carry_out(order, meeting, turn, stop, logs)
        except (Diverged, Stopped):  # the first process says so
            continue
        except ValueError as error:
            meeting.tell(f"words {turn} {meeting.place.rank}", str(error))
            raise SystemExit(1) from None


def _carry_out(order: dict[str, Any], meeting: Meeting, turn: int, stop: Callable[[], bool], logs: bool) -> None:
    spec = RunSpec.model_validate_json(json.dumps(order["spec"]))
    workspace, roots = Workspace(Path(order["workspace"])), Roots(Path(order["data"]), Path(order["cache"]))
    resources = Resources.model_validate(order["resources"])
    if logs:
        log = os.open(workspace.run(run_id(spec)).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, sys.stderr.fileno())
        os.close(log)
    tell_torch(resources, spec, resources.device)
    device = device_of(resources, meeting.place.here)
    meeting.tell(f"here {turn} {meeting.place.rank}", "yes")
    with meeting.joined(turn, device):
        train_along(spec, Path(order["manifest"]), workspace, roots, resources, device, stop)


if __name__ == "__main__":
    main()
