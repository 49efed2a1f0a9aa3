"""A process that computes the runs it is told to, one after the other, so that torch is imported once.

Lines of JSON on its standard input: where to work, then {"run": ID, "spec": RunSpec} to compute, and {"stop": ID}, at which
that run writes a checkpoint and is left. When the input ends it does so too, and leaves. `begin ID` on its standard output
says that it works on a run, `end ID` that the run has an outcome, or was left.
"""

import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO

from dinov2lab.data.source import Roots
from dinov2lab.lab.execute import Busy, Stopped, execute
from dinov2lab.lab.hearing import from_parent
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace


class Orders:
    """What the parent has asked for, read by a thread of its own."""

    def __init__(self) -> None:
        self.runs = queue.Queue[tuple[str, RunSpec] | None]()
        self._stopped = set[str]()
        self._leaving = threading.Event()

    def listen(self, parent: TextIO) -> None:
        for line in parent:
            order = json.loads(line)
            if "stop" in order:
                self._stopped.add(order["stop"])
            else:
                self._stopped.discard(order["run"])
                self.runs.put((order["run"], RunSpec.model_validate(order["spec"], strict=False)))
        self.leave()

    def leave(self, *_: object) -> None:
        self._leaving.set()
        self.runs.put(None)

    def stops(self, run: str) -> bool:
        return self._leaving.is_set() or run in self._stopped


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the parent decides
    parent = from_parent()
    plan, orders = json.loads(parent.readline()), Orders()
    signal.signal(signal.SIGTERM, orders.leave)
    threading.Thread(target=orders.listen, args=(parent,), daemon=True).start()
    roots = Roots(Path(plan["data"]), Path(plan["cache"]))
    workspace, resources = Workspace(Path(plan["workspace"])), Resources.model_validate(plan["resources"])
    while order := orders.runs.get():
        run, spec = order
        with suppress(Busy, Stopped):
            execute(spec, workspace, roots, resources, stop=partial(orders.stops, run), begun=partial(_tell, "begin"))
        _tell("end", run)


def _tell(word: str, run: str) -> None:
    with suppress(BrokenPipeError):  # nobody is left to hear it, and the next order is to leave
        os.write(sys.stdout.fileno(), f"{word} {run}\n".encode())


if __name__ == "__main__":
    main()
