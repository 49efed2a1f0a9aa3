"""A process that computes runs one after the other, so that torch is imported once.

Lines of JSON on its standard input: where to work, then {"spec": RunSpec} to compute, {"stop": ID}, at which that run writes
a checkpoint and is left, and {"last": true}, after which it leaves. When the input ends, its parent is gone or wants it to
stop: so it does, and leaves. `begin ID` on its standard output says that it works on a run, whose log has what it says on
stderr from then on; `end ID`, that the run has an outcome, or was left.
"""

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from dinov2lab.data.source import Roots
from dinov2lab.lab.execute import Busy, Stopped, execute
from dinov2lab.lab.hearing import from_parent
from dinov2lab.lab.team import Lost, team_of
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace


class Orders:
    """What the parent has asked for, read by a thread of its own."""

    def __init__(self) -> None:
        self.specs = queue.Queue[dict[str, Any] | None]()
        self.leaving = threading.Event()
        self._stopped = set[str]()

    def listen(self, parent: TextIO) -> None:
        for line in parent:
            match json.loads(line):
                case {"stop": run}:
                    self._stopped.add(run)
                case {"spec": spec, "run": run}:
                    self._stopped.discard(run)
                    self.specs.put(spec)
                case {"last": True}:
                    self.specs.put(None)
        self.leave()

    def leave(self, *_: object) -> None:
        self.leaving.set()
        self.specs.put(None)

    def stops(self, run: str) -> bool:
        return self.leaving.is_set() or run in self._stopped


def main() -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the parent decides
    parent = from_parent()
    plan, orders = json.loads(parent.readline()), Orders()
    signal.signal(signal.SIGTERM, orders.leave)
    threading.Thread(target=orders.listen, args=(parent,), daemon=True).start()
    roots = Roots(Path(plan["data"]), Path(plan["cache"]))
    workspace, resources = Workspace(Path(plan["workspace"])), Resources.model_validate(plan["resources"])
    with team_of(resources.processes) as team:
        while (asked := orders.specs.get()) and not orders.leaving.is_set():
            spec = RunSpec.model_validate(asked, strict=False)
            run = run_id(spec)
            if workspace.run(run).outcome() is None:
                try:
                    stop, begun = partial(orders.stops, run), partial(_begun, workspace)
                    with suppress(Busy, Stopped):
                        execute(spec, workspace, roots, resources, stop=stop, begun=begun, team=team)
                except Lost as error:
                    raise SystemExit(str(error)) from None  # the launcher starts another worker
            _tell("end", run)


def _begun(workspace: Workspace, run: str) -> None:
    _tell("begin", run)
    log = os.open(workspace.run(run).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stderr.fileno())
    os.close(log)


def _tell(word: str, run: str) -> None:
    with suppress(BrokenPipeError):  # nobody is left to hear it, and the next order is to leave
        os.write(sys.stdout.fileno(), f"{word} {run}\n".encode())


if __name__ == "__main__":
    main()
