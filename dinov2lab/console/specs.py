"""Commands about what was asked for: the schema of its files, and where two runs differ."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dinov2lab import options

Run = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, or how it begins.")]


def schema(
    kind: Annotated[
        Literal["recipe", "study", "search", "profile"] | None,
        typer.Argument(metavar="[KIND]", help="recipe, study, search, or profile (of Slurm)."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Without KIND: where all of them are written.")] = Path("schemas"),
) -> None:
    """Write the JSON Schema of recipes, studies, searches and profiles, so that an editor completes and checks them."""
    import json
    from typing import get_args

    from dinov2lab.spec.schema import FileKind, schema_of
    from dinov2lab.store import atomic

    if kind:
        typer.echo(json.dumps(schema_of(kind), indent=1))
        return
    for each in get_args(FileKind):
        file = out / f"{each}.json"
        atomic.write_text(file, json.dumps(schema_of(each), indent=1) + "\n")
        typer.echo(f"{each:8} {file}")
    typer.echo("an editor finds one by the first line of a file: # yaml-language-server: $schema=../schemas/KIND.json")


def diff(first: Run, second: Run, workspace: options.Place = options.LAB, as_json: options.Json = False) -> None:
    """Show which fields two runs differ in, and whether code, versions or images differ too."""
    from dinov2lab import differing
    from dinov2lab.store.folders import Workspace

    differing.diff(first, second, Workspace(workspace), as_json)


def why_rerun(
    target: options.Target,
    sets: options.Sets = None,
    workspace: options.Place = options.LAB,
    as_json: options.Json = False,
) -> None:
    """Say of each run that has no result which fields differ from the nearest run that has one."""
    from dinov2lab import commands, differing
    from dinov2lab.spec.study import Study, expand
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    found = commands.find_either(target, sets or (), place)
    if isinstance(found, Study) and found.untuned:
        raise ValueError(f"study {found.name} has no runs before its arms are tuned: dinov2lab run {target}")
    cells = expand(found) if isinstance(found, Study) else (found,)
    differing.show_reasons(differing.reasons(cells, place), as_json)
