"""What a run needs, and what of it is here. Nothing that may be broken is imported before it is asked for."""

import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dinov2lab.lab.findings import Finding

WIDTH = 14  # of the names


def examine(workspace: Path) -> Iterator[Finding]:
    """One finding after the other, as they come. Whatever a check itself raises is a finding too."""
    for name, check in (("python", _python), ("libraries", _libraries), ("machine", lambda: _machine(workspace))):
        try:
            yield from check()
        except Exception as error:
            why = (str(error).strip().splitlines() or [""])[0]
            there = f"could not be looked at: {type(error).__name__}: {why}"
            yield Finding(name, "broken", there, "unknown", "pip install --force-reinstall dinov2lab")


def _python() -> list[Finding]:
    return [Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")]


def _libraries() -> list[Finding]:
    from dinov2lab.lab.libraries import libraries

    return libraries()


def _machine(workspace: Path) -> Iterator[Finding]:
    from dinov2lab.lab import premises
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    checks: Sequence[Callable[[], Finding]] = (
        premises.cores,
        premises.memory,
        lambda: premises.space(place),
        premises.shared_memory,
        premises.open_files,
        lambda: premises.mlflow(place),
        premises.slurm,
    )
    yield from (check() for check in checks)


def lines(found: Finding) -> Iterator[str]:
    """As a person reads it."""
    yield f"{found.state:<9}{found.what:<{WIDTH + 2}}{found.there}"
    for word, text in (("costs", found.cost), ("mend", found.mend)):
        if text:
            yield f"{'':<9}{word:>{WIDTH}}  {text}"


def as_json(found: Sequence[Finding]) -> str:
    return json.dumps({"works": works(found), "found": [each._asdict() for each in found]}, indent=1)


def works(found: Sequence[Finding]) -> bool:
    """Whether a run finds all that it needs."""
    return all(each.state != "broken" for each in found)
