"""Commands for whoever begins."""

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
