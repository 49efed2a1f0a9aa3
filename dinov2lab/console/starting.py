"""Commands for whoever begins."""

from pathlib import Path
from typing import Annotated

import typer

from dinov2lab import options


def doctor(workspace: options.Place = options.LAB, as_json: options.Json = False) -> None:
    """Look at what a run needs: what is here, what is not, and the line that mends it. Exit code 1: no run works."""
    from dinov2lab import doctor as looking

    found = []
    for each in looking.examine(workspace):
        found.append(each)
        for line in [] if as_json else looking.lines(each):
            typer.echo(line)
    if as_json:
        typer.echo(looking.as_json(found))
    raise typer.Exit(int(not looking.works(found)))


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where; nothing that is there is written over.")],
    as_json: options.Json = False,
) -> None:
    """Make a workspace: recipes, studies, searches, Slurm profiles, and a README that says how to begin."""
    import json

    from dinov2lab import beginning

    written = beginning.begin(folder)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "files": [str(file) for file in written]}, indent=1))
        return
    typer.echo(f"{len(written)} files in {folder}; begin with: cd {folder} && dinov2lab doctor && dinov2lab run smoke")
