"""Commands about MLflow, the mirror of what is on disk."""

import os
from typing import Annotated

import typer

from dinov2lab import options


def sync(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="One study alone.")] = None,
    workspace: options.Place = options.LAB,
    reports: options.Reports = options.REPORTS,
) -> None:
    """Bring MLflow up to what is on disk. Doing it twice adds nothing."""
    from dinov2lab import commands
    from dinov2lab.lab import search_mirror, tracking
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    searches = search_mirror.stored(place, study)
    if not (study and searches):
        tracking.sync(commands.find_study(study, place) if study else None, place, reports)
    for each in searches:
        search_mirror.sync(each, place, reports / each.name)


def register(study: options.StudyName, workspace: options.Place = options.LAB, as_json: options.Json = False) -> None:
    """Make the run of a study that is best on val a registered model of MLflow, to be served."""
    from dinov2lab import commands, terminal
    from dinov2lab.lab import models, tracking
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    made = models.register(commands.find_study(study, place), place)
    if as_json:
        terminal.say_json(made._asdict())
        return
    typer.echo(f"model {made.name}, version {made.version}: run {made.run}, {made.metric} {made.value:.4g}")
    # A server's URI is in the environment already, perhaps with a password, which nothing prints.
    where = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"MLFLOW_TRACKING_URI={tracking.tracking_uri(place)} "
    typer.echo(f"{where}mlflow models serve -m models:/{made.name}/{made.version} --env-manager local")


def ui(workspace: options.Place = options.LAB, port: options.Port = 5000) -> None:
    """Serve the MLflow pages of the workspace until Ctrl-C."""
    from dinov2lab.lab import tracking
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    for study, address in tracking.pages(place, port).items():
        typer.echo(f"{study}   {address}")
    raise typer.Exit(tracking.ui(place, port))
