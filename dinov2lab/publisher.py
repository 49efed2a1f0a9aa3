"""Report and MLflow in a process of their own: the launcher stays small and never waits for either.

The process (`python -m dinov2lab.publisher KIND NAME WORKSPACE REPORTS ASKED_BY`) reads `report` or `mirror` line by line
from its standard input and answers each with one line: the processor time that it took, in seconds, and `done`, `behind` and
what MLflow lacks, or `error` and why there is no report. It leaves when the input ends.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Study, expand
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.studies import stored
from dinov2lab.store.trials import is_concluded, stored_search

Kind = Literal["study", "search"]
What = Literal["report", "mirror"]

REST = 30  # times the processor time of an answer for which the process is left alone: it may cost some 3 % of a core


class Publisher:
    """The launcher's end of it. The process starts when it is first asked for something."""

    def __init__(self, kind: Kind, name: str, workspace: Workspace, reports: Path, asked_by: str | None = None) -> None:
        """`asked_by`: the study whose arm a search tunes."""
        self._words = [kind, name, str(workspace.path), str(reports), asked_by or ""]
        self._process: subprocess.Popen[str] | None = None
        self._waiting: threading.Thread | None = None
        self._rests_until = -math.inf
        self._answer = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What it is at it finishes by itself, unless there is no time for that."""
        if self._process is not None:
            if kind is not None:
                self._process.terminate()
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it has died, and was not told its last
                self._process.stdin.close()
            self._process.wait()

    def ask(self, what: What) -> bool:
        """Have it done without waiting; False where the last request is not answered yet, or was dear a short time ago."""
        if (self._waiting is not None and self._waiting.is_alive()) or time.monotonic() < self._rests_until:
            return False
        self._request(what)
        return True

    def _request(self, what: What) -> None:
        process = self._running()
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died just now: no answer will come
            process.stdin.write(what + "\n")
            process.stdin.flush()
        self._waiting = threading.Thread(target=self._listen, args=(process,), daemon=True)
        self._waiting.start()

    def finish(self) -> str:
        """Have the report written from all that there is now, and wait for it; returns what MLflow lacks, or nothing.

        Raises ValueError where no report can be written.
        """
        for _ in range(2):  # a process that was killed gets a successor
            if self._waiting is not None:
                self._waiting.join()
            self._request("report")
            assert self._waiting is not None
            self._waiting.join()
            word, _, words = self._answer.partition(" ")
            if word == "error":
                raise ValueError(words)
            if word:
                return words
        raise ValueError("the process that writes the report died twice; see above")

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "dinov2lab.publisher", *self._words]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._process

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        seconds, _, self._answer = process.stdout.readline().strip().partition(" ")
        if self._answer:
            self._rests_until = time.monotonic() + REST * float(seconds)
        else:
            process.wait()  # it has died


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the parent decides
    kind, name, place, reports, asked_by = sys.argv[1:]
    workspace = Workspace(Path(place))
    if kind == "search":
        publish: Callable[..., str | None] = partial(
            publish_search, stored_search(name, workspace), workspace, Path(reports), asked_by or None
        )
    else:
        study = stored(name, workspace)
        assert study is not None, "a launch records its study first"
        publish = partial(_publish_study, study, workspace, Path(reports))
    for line in sys.stdin:
        began = time.process_time()
        answer = _answer(publish, report=line.strip() == "report")
        with suppress(BrokenPipeError):  # the launcher is gone, and the input will end
            os.write(sys.stdout.fileno(), f"{time.process_time() - began:.2f} {answer}\n".encode())


def write(study: Study, workspace: Workspace, report: Path, *, pool: bool = False, refresh: int | None = None) -> bool:
    """A study's report, by one process at a time, which tidies up after a killed one; False where it stands already."""
    from dinov2lab.report import drawn

    options = f"{pool} {refresh}"
    with atomic.locked(workspace.studies / f"{study.name}.lock"):
        if drawn.stands(study, workspace, report, options):
            return False
        from dinov2lab.report.render import write_report

        atomic.sweep(report)
        before = drawn.seen(study, workspace, drawn.runs_of(study, workspace), options)
        write_report(study, workspace, report, pool=pool, refresh=refresh)
        drawn.remember(study, workspace, report, before)
        return True


def watched(study: Study, workspace: Workspace, report: Path, *, pool: bool, seconds: int) -> Iterator[int]:
    """Write the report whenever something has changed, until every run has ended; yields how many have by then."""
    cells = expand(study)
    while True:
        ended = sum(workspace.run(cell.run).outcome() is not None for cell in cells)
        coming = ended < len(cells)
        if write(study, workspace, report, pool=pool, refresh=seconds if coming else None):
            yield ended
        if not coming:
            return
        time.sleep(seconds)


def _answer(publish: Callable[..., str | None], *, report: bool) -> str:
    try:
        behind = publish(report=report)
    except (ValueError, OSError) as error:
        return f"error {str(error).splitlines()[0]}"
    return f"behind {behind}" if behind else "done"


def _publish_study(study: Study, workspace: Workspace, reports: Path, *, report: bool) -> str | None:
    """Returns what MLflow lacks."""
    from dinov2lab.lab import tracking

    behind = tracking.try_sync(study, workspace, reports)  # first, so that the report links the runs
    if report and write(study, workspace, reports / study.name):
        behind = tracking.try_sync(study, workspace, reports)
    return behind


def publish_search(
    search: SearchSpec, workspace: Workspace, reports: Path, asked_by: str | None, *, report: bool
) -> str | None:
    """Returns what MLflow lacks."""
    from dinov2lab.lab import search_mirror
    from dinov2lab.lab.importances import write_importances
    from dinov2lab.report.search import write_search_report

    if is_concluded(search, workspace.search(search.name)):
        write_importances(search, workspace)
    if report:
        write_search_report(search, workspace, reports / search.name, asked_by)
    return search_mirror.try_sync(search, workspace, reports / search.name)


if __name__ == "__main__":
    main()
