"""Commands for whoever begins."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

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
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FOLDER", help="Images of your own, to look at and to propose a recipe for."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.01, help="That a run on --images may take. [default: 1]")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make a workspace: recipes, studies, searches, Slurm profiles, and a README that says how to begin.

    With --images it looks at them (labels, sizes, what cannot be read, copies), proposes a recipe and a first study that fit
    them and this machine, and says why: dinov2lab init my-lab --images ~/photos
    """
    from dinov2lab import commands
    from dinov2lab.beginning import workspace

    commands.refuse("is for --images", hours=hours is not None and images is None)
    workspace.refuse(folder, images=images)
    if images is not None:
        _with_images(folder, images, hours or 1.0, as_json)
        return
    written = workspace.begin(folder)
    if as_json:
        _say_json({"folder": str(folder), "files": [str(file) for file in written]})
        return
    typer.echo(
        f"{len(written)} files in {workspace.shown(folder)}; begin with:"
        f" cd {shlex.quote(str(folder))} && dinov2lab doctor && dinov2lab run smoke"
    )


def _with_images(folder: Path, images: Path, hours: float, as_json: bool) -> None:
    from dinov2lab.beginning import workspace
    from dinov2lab.beginning.layout import layout_of

    layout = layout_of(images, folder)
    from dinov2lab.beginning import proposal  # and torch with it: what is refused is refused at once
    from dinov2lab.progress import watching
    from dinov2lab.store.folders import Workspace

    with watching((), Workspace(folder / "lab"), ()) as view:
        found = proposal.look(images, layout, hours, view.step)
    written = workspace.begin(folder, found.files, images)
    if as_json:
        files = {"folder": str(folder), "files": [str(file) for file in written]}
        _say_json(files | proposal.as_json(found, folder))
        return
    for line in proposal.lines(found, folder):
        typer.echo(line)


def _say_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
