"""Commands that show how things stand, and tidy up."""

from typing import Annotated

import typer

from dinov2lab import options


def list_(workspace: options.Place = options.LAB, as_json: options.Json = False) -> None:
    """The studies and recipes here, and how many of their runs have a result."""
    from dinov2lab import overview, terminal
    from dinov2lab.store.folders import Workspace

    terminal.show_listing(overview.listing(Workspace(workspace)), as_json)


def status(study: options.StudyName, workspace: options.Place = options.LAB, as_json: options.Json = False) -> None:
    """How the runs of a study stand: arms and seeds; before its arms are tuned, how far their searches are. Or a search."""
    from dinov2lab import commands, overview, searching, terminal
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    if search := searching.known_search(study, place):
        searching.show_standing(search, place, as_json)
        return
    one = commands.find_planned(study, place)
    if one.untuned:
        from dinov2lab import tuning

        tuning.show_tuning(one, place, as_json)
    else:
        terminal.show_states(one, overview.states(one, place), as_json)


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The first letters of a run's id, as `status` shows it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    workspace: options.Place = options.LAB,
) -> None:
    """What the process of a run said, here or on the cluster."""
    from dinov2lab import cluster

    cluster.show_log(run, workspace, follow=follow)


def report(
    names: options.StudyNames,
    workspace: options.Place = options.LAB,
    reports: options.Reports = options.REPORTS,
    pool: options.Pool = False,
    watch: options.Watch = False,
    as_json: options.Json = False,
) -> None:
    """Write a study's report from the results that are there, unless it says them already; of several, how they compare."""
    from dinov2lab import commands
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    studies, how = [commands.find_study(name, place) for name in names], {"pool": pool, "watch": watch}
    commands.report(studies, place, reports, **how, as_json=as_json)


def cancel(study: options.StudyName, workspace: options.Place = options.LAB, as_json: options.Json = False) -> None:
    """End the jobs of a study or a search on the cluster. Its runs keep their checkpoints, and `run` goes on from there."""
    from dinov2lab import cluster

    cluster.end(study, workspace, as_json=as_json)


def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Remove it, too.")] = False,
    workspace: options.Place = options.LAB,
    as_json: options.Json = False,
) -> None:
    """Show what no study that ran here needs."""
    from dinov2lab import cluster

    cluster.tidy(workspace, remove=remove, as_json=as_json)
