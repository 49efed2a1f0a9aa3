"""The commands and their options. Nothing but typer is imported before a command is called: --help must be quick."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from dinov2lab import options

app = typer.Typer(
    help="Studies of DINOv2 on your images: run, watch and report them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130  # what a shell makes of SIGINT
LAB, HERE, REPORTS = Path("lab"), Path("."), Path("reports")


def main(arguments: Sequence[str] | None = None) -> None:
    """The program: a user's mistake is a line or two and exit code 2, an interruption 130."""
    try:
        app(arguments, prog_name="dinov2lab")
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        typer.echo("stopped; the same command goes on from here", err=True)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(2) from None
    except OSError as error:
        typer.echo(f"{error.filename or 'file system'}: {error.strerror or error}", err=True)
        raise SystemExit(2) from None


@app.command()
def run(
    target: options.Target,
    sets: options.Sets = None,
    workspace: options.Place = LAB,
    data_root: options.DataRoot = HERE,
    reports: options.Reports = REPORTS,
    jobs: options.Jobs = None,
    device: options.Device = "auto",
    nproc: options.Nproc = 1,
    micro_batches: options.MicroBatches = 1,
    side_by_side: options.SideBySide = 1,
    recompute: options.Recompute = "nothing",
    shard: options.Cut = "none",
    rerun: options.Rerun = False,
    more_seeds: options.MoreSeeds = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
) -> None:
    """Run a study and write its report, or run one recipe. What has a result is not run again."""
    from dinov2lab import commands, terminal
    from dinov2lab.spec.study import Study, expand
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    found = commands.find_either(target, sets or (), place)
    if more_seeds:
        found = commands.with_more_seeds(found, more_seeds, place)
    if launcher == "slurm":
        from dinov2lab import cluster

        where = cluster.Places(place, data_root, reports)
        words = (profiles or (), slurm or ())
        raise typer.Exit(cluster.run(found, where, *words, jobs=jobs, rerun=rerun, dry_run=dry_run))
    commands.refuse_slurm_words(profiles, slurm)
    cells = expand(found) if isinstance(found, Study) else (found,)
    if dry_run and isinstance(found, Study) and found.untuned:
        from dinov2lab import tuning

        tuning.show_tuning(found, place, as_json)
        return
    if dry_run:
        terminal.show_plan(commands.planned(cells, place), as_json)
        return
    from dinov2lab.data.source import Roots

    jobs = jobs if isinstance(found, Study) else 1
    roots, (jobs, resources) = Roots(data_root, place.cache), commands.resources_for(jobs, device, nproc)
    resources = commands.in_parts(resources, micro_batches, side_by_side, recompute, shard, cells)
    if isinstance(found, Study) and found.untuned:
        from dinov2lab import tuning

        found = tuning.tune_here(found, place, roots, reports, jobs, resources)
    if not isinstance(found, Study):
        result = commands.run_recipe(found, place, roots, resources, rerun=rerun)
        terminal.show_result(result, place.run(found.run).path, as_json)
        raise typer.Exit(int(result.status == "failed"))
    report = reports / found.name
    failed = commands.run_study(found, place, roots, report, jobs=jobs, resources=resources, rerun=rerun)
    terminal.show_verdict(found, commands.verdict_of(report), report, as_json)
    if failed:
        terminal.note(f"{terminal.plural(failed, 'run')} failed: dinov2lab status {found.name}")
        raise typer.Exit(1)


@app.command()
def search(
    target: options.SearchName,
    sets: options.Sets = None,
    workspace: options.Place = LAB,
    data_root: options.DataRoot = HERE,
    reports: options.Reports = REPORTS,
    jobs: options.Jobs = None,
    device: options.Device = "auto",
    storage: options.Storage = None,
    confirm: options.Confirm = 0,
    confirm_seeds: options.ConfirmSeeds = 5,
    transfer: options.TransferFrom = None,
    dashboard: options.Dashboard = False,
    port: options.Port = 8080,
    as_json: options.Json = False,
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
) -> None:
    """Search a recipe's space for what does best on val, and write its report. The same command again goes on."""
    from dinov2lab import commands, searching
    from dinov2lab.store.folders import Workspace

    found, place = searching.find_search(target, sets or (), transfer or ()), Workspace(workspace)
    again, here = searching.Again(confirm, confirm_seeds), commands.resources_for(jobs, device)
    if dashboard:
        from dinov2lab.lab.dashboard import serve

        raise typer.Exit(serve(found, place, storage, port))
    if launcher == "slurm":
        from dinov2lab import cluster

        where, words = cluster.Places(place, data_root, reports), (profiles or (), slurm or ())
        raise typer.Exit(cluster.search(found, where, *words, again, jobs=jobs, storage=storage, as_json=as_json))
    commands.refuse_slurm_words(profiles, slurm)
    raise typer.Exit(searching.search(found, place, data_root, reports, again, here, storage=storage, as_json=as_json))


@app.command("list")
def list_(workspace: options.Place = LAB, as_json: options.Json = False) -> None:
    """The studies and recipes here, and how many of their runs have a result."""
    from dinov2lab import commands, terminal
    from dinov2lab.store.folders import Workspace

    terminal.show_listing(commands.listing(Workspace(workspace)), as_json)


@app.command()
def status(study: options.StudyName, workspace: options.Place = LAB, as_json: options.Json = False) -> None:
    """How the runs of a study stand: arms and seeds."""
    from dinov2lab import commands, terminal
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    one = commands.find_study(study, place)
    terminal.show_states(one, commands.states(one, place), as_json)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The first letters of a run's id, as `status` shows it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    workspace: options.Place = LAB,
) -> None:
    """What the process of a run said, here or on the cluster."""
    from dinov2lab import cluster

    cluster.show_log(run, workspace, follow=follow)


@app.command()
def cancel(study: options.StudyName, workspace: options.Place = LAB) -> None:
    """End a study's jobs on the cluster. Its runs keep their checkpoints, and `run` goes on from there."""
    from dinov2lab import cluster

    cluster.end(study, workspace)


@app.command()
def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Remove it, too.")] = False, workspace: options.Place = LAB
) -> None:
    """Show what no study that ran here needs."""
    from dinov2lab import cluster

    cluster.tidy(workspace, remove=remove)


@app.command()
def report(
    names: options.StudyNames,
    workspace: options.Place = LAB,
    reports: options.Reports = REPORTS,
    pool: options.Pool = False,
    watch: options.Watch = False,
) -> None:
    """Write a study's report from the results that are there, unless it says them already; of several, how they compare."""
    from dinov2lab import commands
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    commands.report([commands.find_study(name, place) for name in names], place, reports, pool=pool, watch=watch)


@app.command()
def curate(
    recipe: options.RecipeName,
    sets: options.Sets = None,
    workspace: options.Place = LAB,
    data_root: options.DataRoot = HERE,
    device: options.Device = "auto",
    search: options.Searching = "auto",
    append: options.Append = False,
    shards: options.Shards = 1,
    shard: options.Shard = None,
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Curate a recipe's training images and train nothing: which are kept, and why the others fell."""
    from dinov2lab import commands, curating
    from dinov2lab.data.source import Roots
    from dinov2lab.store.folders import Workspace

    spec, place = commands.find_recipe(recipe, sets or ()), Workspace(workspace)
    curating.check(append, shard, shards, launcher, [*(profiles or ()), *(slurm or ()), *(["--dry-run"] * dry_run)])
    resources = commands.resources_for(1, device)[1].model_copy(update={"search": search})
    work = curating.Work(spec, place, Roots(data_root, place.cache), resources, shards)
    if launcher == "slurm":
        curating.send(Path(recipe).stem, work, profiles or (), slurm or (), dry_run=dry_run)
    elif shard is not None:
        curating.curate_part(work, shard)
    else:
        curating.curate(work, append, as_json)


@app.command()
def why(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An image, by its path in its source.")],
    manifest: Annotated[
        str | None, typer.Option("--manifest", metavar="ID", help="Of a curation. [default: the latest]")
    ] = None,
    workspace: options.Place = LAB,
) -> None:
    """Say whether a curation kept an image, and what decided."""
    from dinov2lab import curating
    from dinov2lab.store.folders import Workspace

    for line in curating.why(path, manifest, Workspace(workspace)):
        typer.echo(line)


@app.command()
def evaluate(
    target: options.Network,
    on: options.On = None,
    memory: options.Memory = None,
    metrics: options.Metrics = None,
    px: options.Px = None,
    skipped: options.Skipped = False,
    workspace: options.Place = LAB,
    data_root: options.DataRoot = HERE,
    device: options.Device = "auto",
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Measure a network's frozen features on images, beside what its run has measured. Done twice, it is read."""
    from dinov2lab import commands, evaluating
    from dinov2lab.data.source import Roots
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    roots, wish = Roots(data_root, place.cache), evaluating.Wish(on or (), memory, metrics or (), px, device)
    if launcher == "slurm":
        evaluating.send(target, place, roots, wish, evaluating.Cluster(profiles or (), slurm or (), dry_run))
        return
    commands.refuse_slurm_words(profiles, slurm, ["--dry-run"] * dry_run)
    if skipped:
        evaluating.show_completed(evaluating.complete(target, place, roots, wish), as_json)
    else:
        evaluating.show(evaluating.evaluate(target, place, roots, wish), as_json)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of a finished run, or how it begins.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is not there yet.")],
    to: Annotated[Literal["timm", "hf", "onnx"], typer.Option("--to", help="For whom.")],
    workspace: options.Place = LAB,
) -> None:
    """Write a run's backbone for timm, transformers or ONNX, with a model card; its features are compared."""
    from dinov2lab import commands
    from dinov2lab.store.folders import Workspace

    folder = commands.find_run(run, Workspace(workspace))
    from dinov2lab.export.formats import export as write

    done = write(folder, to, out)
    typer.echo(f"{done.folder}   the largest difference between features is {done.difference:.1e}")


@app.command()
def sync(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="One study alone.")] = None,
    workspace: options.Place = LAB,
    reports: options.Reports = REPORTS,
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


@app.command()
def register(study: options.StudyName, workspace: options.Place = LAB) -> None:
    """Make the run of a study that is best on val a registered model of MLflow, to be served."""
    from dinov2lab import commands
    from dinov2lab.lab import models, tracking
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    made = models.register(commands.find_study(study, place), place)
    uri = tracking.tracking_uri(place)
    typer.echo(f"model {made.name}, version {made.version}: run {made.run}, {made.metric} {made.value:.4g}")
    typer.echo(
        f"MLFLOW_TRACKING_URI={uri} mlflow models serve -m models:/{made.name}/{made.version} --env-manager local"
    )


@app.command()
def ui(workspace: options.Place = LAB, port: options.Port = 5000) -> None:
    """Serve the MLflow pages of the workspace until Ctrl-C."""
    from dinov2lab.lab import tracking
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    for study, address in tracking.pages(place, port).items():
        typer.echo(f"{study}   {address}")
    raise typer.Exit(tracking.ui(place, port))


if __name__ == "__main__":
    main()
