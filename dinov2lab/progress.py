"""How runs get on, read from what they write: bars on stderr, or lines where that is no terminal."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dinov2lab.spec.cost import images_of_run
from dinov2lab.spec.study import Cell
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.state import Follower, seconds_left
from dinov2lab.terminal import duration, metric, note, outcome_text

POLL_SECONDS = 1.0
LINE_SECONDS = 60.0  # between two lines on one run where stderr is no terminal


def progress_text(cell: Cell, values: dict[str, Any]) -> str:
    """Images seen, speed, time left and the latest look at val."""
    seen, total = values.get("images", 0), images_of_run(cell.spec)
    speed, left = values.get("speed/images_per_second"), seconds_left(cell.spec, values)
    parts = [f"{seen:,} of {total:,} images"]
    if seen >= total:
        parts += ["evaluating"]
    elif speed:
        parts += [f"{speed:.0f}/s", f"{duration(left)} left"]
    parts += [metric("val/knn", values["val/knn"])] if "val/knn" in values else []
    parts += ["COLLAPSED"] if values.get("health/collapse") else []
    return "   ".join(parts)


class _View(Protocol):
    def show(self, cell: Cell, values: dict[str, Any]) -> None: ...
    def end(self, cell: Cell, text: str) -> None: ...
    def step(self, doing: str, done: int, of: int) -> None: ...
    def close(self) -> None: ...


class _Bars:
    """One bar per running run, in a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        self._tasks: dict[str, TaskID] = {}

    def show(self, cell: Cell, values: dict[str, Any]) -> None:
        if cell.run not in self._tasks:
            total = images_of_run(cell.spec)
            self._tasks[cell.run] = self._progress.add_task(_name(cell), total=total, text="")
        text = progress_text(cell, values) if values else "preparing"
        self._progress.update(self._tasks[cell.run], completed=values.get("images", 0), text=text)

    def end(self, cell: Cell, text: str) -> None:
        if cell.run in self._tasks:
            self._progress.remove_task(self._tasks.pop(cell.run))
        self._progress.console.print(f"{_name(cell)}   {text}", markup=False, highlight=False)

    def step(self, doing: str, done: int, of: int) -> None:
        """Of a curation, or a look at images: what is being done, and how much of it; of what has no parts, that it is."""
        if done >= of:
            if doing in self._tasks:
                self._progress.remove_task(self._tasks.pop(doing))
            return
        if doing not in self._tasks:
            self._tasks[doing] = self._progress.add_task(doing, total=of if of > 1 else None, text="")
        text = f"{done:,} of {of:,} images" if of > 1 else ""
        self._progress.update(self._tasks[doing], completed=done, text=text)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """At most a line a minute per running run, in a log."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def show(self, cell: Cell, values: dict[str, Any]) -> None:
        if time.monotonic() - self._last.get(cell.run, -LINE_SECONDS) >= LINE_SECONDS:
            self._last[cell.run] = time.monotonic()
            note(f"{_name(cell)}   {progress_text(cell, values) if values else 'preparing'}")

    def end(self, cell: Cell, text: str) -> None:
        note(f"{_name(cell)}   {text}")

    def step(self, doing: str, done: int, of: int) -> None:
        if done < of and time.monotonic() - self._last.get(doing, -LINE_SECONDS if of == 1 else 0) >= LINE_SECONDS:
            self._last[doing] = time.monotonic()
            note(f"{doing}   {done:,} of {of:,} images" if of > 1 else doing)

    def close(self) -> None:
        pass


def _name(cell: Cell) -> str:
    return f"{cell.arm} seed {cell.seed}" if cell.arm else f"run {cell.run}"


class _Watched(NamedTuple):
    cell: Cell
    folder: RunFolder
    follower: Follower
    before: dict[Path, int]  # its files, as they were when the watch began

    def wrote(self, *files: Path) -> bool:
        """Since then, by the files alone: clocks jump."""
        return any(_stamp(file) != self.before[file] for file in files)


def _watched(cell: Cell, workspace: Workspace) -> _Watched:
    folder = workspace.run(cell.run)
    files = (folder.result, folder.failure, folder.spec, folder.provenance, folder.metrics)
    return _Watched(cell, folder, Follower(folder), {file: _stamp(file) for file in files})


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@contextmanager
def watching(cells: Sequence[Cell], workspace: Workspace, finals: Sequence[str]) -> Iterator[_View]:
    """While inside, show how the runs of `cells` get on; of one that ends, its `finals`. Only files are read.

    Gives the view, whose `step` shows how far a curation is.
    """
    runs = [_watched(cell, workspace) for cell in cells]
    stop, view = threading.Event(), _Bars() if sys.stderr.isatty() else _Lines()
    thread = threading.Thread(target=_watch, args=(runs, finals, view, stop), daemon=True)
    thread.start()
    try:
        yield view
    finally:
        stop.set()
        thread.join()
        view.close()


def _watch(runs: list[_Watched], finals: Sequence[str], view: _View, stop: threading.Event) -> None:
    last = False
    while not last:
        last = stop.wait(POLL_SECONDS)
        for each in list(runs):
            folder = each.folder
            if each.wrote(folder.result, folder.failure) and (outcome := folder.outcome()):
                view.end(each.cell, outcome_text(outcome, finals))
                runs.remove(each)
            elif each.wrote(folder.spec, folder.provenance, folder.metrics) and not last:
                view.show(each.cell, each.follower.read() if each.wrote(folder.metrics) else {})
