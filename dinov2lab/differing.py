"""`diff` and `why-rerun`: which fields make two runs two, and what a run to come differs in from those that have ended."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dinov2lab import commands, terminal
from dinov2lab.spec.differing import NOTHING, Difference, differences
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder

LONGEST = 80  # characters of a value in a table


def diff(first: str, second: str, workspace: Workspace, as_json: bool) -> None:
    """Show where two runs differ: in what was asked for, and in what they were computed with and on."""
    one, other = (commands.find_begun(name, workspace) for name in (first, second))
    asked = differences(one.read_spec(), other.read_spec())
    names = (one.path.name, other.path.name)
    beside = list(_beside(one, other))
    if as_json:
        asked_rows, beside_rows = ([each._asdict() for each in rows] for rows in (asked, beside))
        terminal.say_json({"first": names[0], "second": names[1], "spec": asked_rows, "beside": beside_rows})
        return
    _table(("field of the recipe", *names), asked, "the recipes are one and the same")
    if beside:
        _table(("beside it", *names), beside, "")


def _beside(one: RunFolder, other: RunFolder) -> Iterator[Difference]:
    """What is no part of a run's identity and may still move its numbers."""
    facts, others = _facts(one), _facts(other)
    for name in {**facts, **others}:
        if (first := facts.get(name, NOTHING)) != (second := others.get(name, NOTHING)):
            yield Difference(name, first, second)


def _facts(folder: RunFolder) -> dict[str, Any]:
    told, outcome = folder.read_provenance(), folder.outcome()
    found = {name: told[name] for name in ("code", "commit") if told.get(name)}
    found |= {f"versions.{name}": value for name, value in told.get("versions", {}).items()}
    found |= {f"resources.{name}": value for name, value in told.get("resources", {}).items()}
    if outcome:
        found |= {f"images of {uri}": fingerprint[:12] for uri, fingerprint in outcome.sources.items()}
        found |= {"manifest": outcome.manifest} if outcome.manifest else {}
    return found


class Reason(NamedTuple):
    """Why one planned run is computed, or is not."""

    cell: Cell
    done: bool
    nearest: str | None  # the finished run that differs in the fewest fields
    differs: list[Difference]  # there, here


def reasons(cells: Sequence[Cell], workspace: Workspace) -> list[Reason]:
    """Of each planned run: whether it has a result, and else what it differs in from the nearest finished run."""
    finished = dict(_finished(workspace))
    return [_reason(cell, finished) for cell in cells]


def _reason(cell: Cell, finished: dict[str, RunSpec]) -> Reason:
    if cell.run in finished:
        return Reason(cell, True, cell.run, [])
    compared = {run: differences(spec, cell.spec) for run, spec in finished.items()}
    nearest = min(compared, key=lambda run: (len(compared[run]), run), default=None)
    return Reason(cell, False, nearest, compared[nearest] if nearest else [])


def _finished(workspace: Workspace) -> Iterator[tuple[str, RunSpec]]:
    """Those whose recipe this version can read; of the others a note."""
    for result in sorted(workspace.runs.glob("*/result.json")):
        folder = RunFolder(result.parent)
        try:
            yield folder.path.name, folder.read_spec()
        except ValueError as error:
            terminal.note(f"not compared: {error}")


def show_reasons(found: Sequence[Reason], as_json: bool) -> None:
    if as_json:
        terminal.say_json([_plain(each) for each in found])
        return
    for each in found:
        who = f"{each.cell.arm} seed {each.cell.seed}".lstrip() if each.cell.arm else f"run {each.cell.run}"
        if each.done:
            terminal.say(f"{who}: has a result ({each.cell.run}); it is not run again")
        elif each.nearest is None:
            terminal.say(f"{who}: is to run; no run has finished here that it could be compared with")
        else:
            terminal.say(f"{who}: is to run; of what has finished, {each.nearest} is nearest")
            _table(("field", "there", "here"), each.differs, "")


def _plain(each: Reason) -> dict[str, Any]:
    rows = [{"field": field, "there": there, "here": here} for field, there, here in each.differs]
    told = {"arm": each.cell.arm, "seed": each.cell.seed, "run": each.cell.run, "done": each.done}
    return told | {"nearest": each.nearest, "differences": rows}


def _short(value: Any) -> str:
    """A whole section is cut; --json has all of it."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def _table(columns: Sequence[str], rows: Sequence[Difference], nothing: str) -> None:
    if rows:
        terminal.table(columns, [(each.field, _short(each.first), _short(each.second)) for each in rows])
    elif nothing:
        terminal.say(nothing)
