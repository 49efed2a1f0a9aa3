"""A process that computes runs one after the other, so that torch is imported once.

It reads one JSON line from its standard input (what to run and where) and goes on until the plan is done. When the standard
input ends, its parent is gone or wants it to stop: it writes a checkpoint and leaves. `begin RUN` on its standard output says
what it works on; what the process says on stderr from then on goes into the run's log.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from dinov2lab.data.source import Roots
from dinov2lab.lab.execute import Busy, Stopped, execute
from dinov2lab.lab.hearing import from_parent
from dinov2lab.lab.team import Lost, Team, team_of
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace


def main() -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the parent decides
    parent = from_parent()
    plan = json.loads(parent.readline())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_watch, args=(parent, stop), daemon=True).start()
    roots = Roots(Path(plan["data"]), Path(plan["cache"]))
    workspace, resources = Workspace(Path(plan["workspace"])), Resources.model_validate(plan["resources"])
    with team_of(resources.processes) as team:
        for text in plan["specs"]:
            if stop.is_set():
                return
            _run(RunSpec.model_validate_json(text), workspace, roots, resources, stop, team)


def _run(
    spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources, stop: threading.Event, team: Team
) -> None:
    """Leave what has an outcome or is being computed by somebody else."""
    if workspace.run(run_id(spec)).outcome() is not None:
        return

    def begun(run: str) -> None:
        with suppress(BrokenPipeError):  # the launcher is gone, and the run will be asked to stop
            os.write(sys.stdout.fileno(), f"begin {run}\n".encode())
        log = os.open(workspace.run(run).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, sys.stderr.fileno())
        os.close(log)

    try:
        with suppress(Busy, Stopped):
            execute(spec, workspace, roots, resources, stop=stop.is_set, begun=begun, team=team)
    except Lost as error:
        raise SystemExit(str(error)) from None  # the launcher starts another worker


def _watch(parent: TextIO, stop: threading.Event) -> None:
    parent.read()
    stop.set()


if __name__ == "__main__":
    main()
