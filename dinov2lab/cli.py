"""The commands and their options. Nothing but typer is imported before a command is called: --help must be quick."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Studies of DINOv2 on your images: run, watch and report them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study: a YAML file, or its name in ./ablations.")]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file, or its name in ./experiments.")
]
Target = Annotated[str, typer.Argument(metavar="STUDY|RECIPE", help="A YAML file, or its name in its folder.")]
SearchName = Annotated[
    str, typer.Argument(metavar="SEARCH", help="A search: a YAML file, or its name in ./experiments.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value, as in --set optim.lr=1e-3.")
]
Place = Annotated[Path, typer.Option("--workspace", help="Where runs, caches and the tracking database live.")]
DataRoot = Annotated[Path, typer.Option("--data-root", help="What the paths of sources are relative to.")]
Reports = Annotated[Path, typer.Option("--reports", help="Where reports are written, a folder for each study.")]
Jobs = Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at a time. [default: cores, or free GPUs]")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
Searching = Annotated[
    Literal["auto", "exact", "ivf", "faiss_flat", "faiss_ivf", "faiss_ivfpq"],
    typer.Option("--search", help="The index that near images are looked for with; its recall is in the manifest."),
]
MicroBatches = Annotated[
    int, typer.Option("--micro-batches", min=1, help="Parts of a batch, one after the other: less memory.")
]
SideBySide = Annotated[int, typer.Option("--side-by-side", min=1, help="Parts of a batch at once, a core each.")]
Recompute = Annotated[
    Literal["nothing", "hidden", "blocks"], typer.Option("--recompute", help="In the backward pass, to save memory.")
]
Rerun = Annotated[bool, typer.Option("--rerun", help="Compute again what has a result.")]
MoreSeeds = Annotated[
    int | None,
    typer.Option(
        "--more-seeds", min=1, help="Add so many seeds to a study that has ended; the look that was taken counts."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would run, and what it costs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Pool = Annotated[bool, typer.Option("--pool", help="Compare runs of different code or images all the same.")]
Storage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="An Optuna database. [default: a journal in the workspace]"),
]
Confirm = Annotated[
    int, typer.Option("--confirm", min=0, metavar="K", help="Train the best K and the base again with fresh seeds.")
]
ConfirmSeeds = Annotated[int, typer.Option("--confirm-seeds", min=2, help="How many, for --confirm.")]
Dashboard = Annotated[bool, typer.Option("--dashboard", help="Show the search in optuna-dashboard, until Ctrl-C.")]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the page, on this machine only.")]
Launcher = Annotated[Literal["local", "slurm"], typer.Option("--launcher", help="This machine, or a Slurm cluster.")]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="[ARM=]NAME",
        help="What jobs ask of Slurm: a YAML file, or its name in ./experiments/slurm.",
    ),
]
SlurmSets = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="Another value of every profile, as in --slurm hours=4."),
]

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
    target: Target,
    sets: Sets = None,
    workspace: Place = LAB,
    data_root: DataRoot = HERE,
    reports: Reports = REPORTS,
    jobs: Jobs = None,
    device: Device = "auto",
    micro_batches: MicroBatches = 1,
    side_by_side: SideBySide = 1,
    recompute: Recompute = "nothing",
    rerun: Rerun = False,
    more_seeds: MoreSeeds = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    launcher: Launcher = "local",
    profiles: Profiles = None,
    slurm: SlurmSets = None,
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
        raise typer.Exit(cluster.run(found, where, profiles or (), slurm or (), rerun=rerun, dry_run=dry_run))
    if profiles or slurm:
        raise ValueError("--profile and --slurm are for --launcher slurm")
    cells = expand(found) if isinstance(found, Study) else (found,)
    if dry_run:
        terminal.show_plan(commands.planned(cells, place), as_json)
        return
    from dinov2lab.data.source import Roots

    jobs = jobs if isinstance(found, Study) else 1
    roots, (jobs, resources) = Roots(data_root, place.cache), commands.resources_for(jobs, device)
    resources = commands.in_parts(resources, micro_batches, side_by_side, recompute, cells)
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
    target: SearchName,
    sets: Sets = None,
    workspace: Place = LAB,
    data_root: DataRoot = HERE,
    reports: Reports = REPORTS,
    jobs: Jobs = None,
    device: Device = "auto",
    storage: Storage = None,
    confirm: Confirm = 0,
    confirm_seeds: ConfirmSeeds = 5,
    dashboard: Dashboard = False,
    port: Port = 8080,
    as_json: Json = False,
) -> None:
    """Search a recipe's space for what does best on val, and write its report. The same command again goes on."""
    from dinov2lab import commands, searching
    from dinov2lab.store.folders import Workspace

    found, place = searching.find_search(target, sets or ()), Workspace(workspace)
    if dashboard:
        from dinov2lab.lab.dashboard import serve

        serve(found, place, storage, port)
        return
    from dinov2lab.data.source import Roots

    roots, (jobs, resources) = Roots(data_root, place.cache), commands.resources_for(jobs, device)
    report = reports / found.name
    trials = searching.run_search(found, place, roots, report, jobs=jobs, resources=resources, storage=storage)
    searching.show_search(found, trials, report, as_json)
    if confirm and searching.confirm(
        found, trials, confirm, confirm_seeds, place, roots, reports, jobs=jobs, resources=resources
    ):
        raise typer.Exit(1)
    raise typer.Exit(int(not any(trial.state == "complete" for trial in trials)))


@app.command("list")
def list_(workspace: Place = LAB, as_json: Json = False) -> None:
    """The studies and recipes here, and how many of their runs have a result."""
    from dinov2lab import commands, terminal
    from dinov2lab.store.folders import Workspace

    terminal.show_listing(commands.listing(Workspace(workspace)), as_json)


@app.command()
def status(study: StudyName, workspace: Place = LAB, as_json: Json = False) -> None:
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
    workspace: Place = LAB,
) -> None:
    """What the process of a run said, here or on the cluster."""
    from dinov2lab import cluster

    cluster.show_log(run, workspace, follow=follow)


@app.command()
def cancel(study: StudyName, workspace: Place = LAB) -> None:
    """End a study's jobs on the cluster. Its runs keep their checkpoints, and `run` goes on from there."""
    from dinov2lab import cluster

    cluster.end(study, workspace)


@app.command()
def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Remove it, too.")] = False, workspace: Place = LAB
) -> None:
    """Show what no study that ran here needs."""
    from dinov2lab import cluster

    cluster.tidy(workspace, remove=remove)


@app.command()
def report(study: StudyName, workspace: Place = LAB, reports: Reports = REPORTS, pool: Pool = False) -> None:
    """Write a study's report from the results that are there."""
    from dinov2lab import commands, terminal
    from dinov2lab.report.render import write_report
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    one = commands.find_study(study, place)
    folder = reports / one.name
    write_report(one, place, folder, pool=pool)
    terminal.show_verdict(one, commands.verdict_of(folder), folder, as_json=False)


@app.command()
def curate(
    recipe: RecipeName,
    sets: Sets = None,
    workspace: Place = LAB,
    data_root: DataRoot = HERE,
    device: Device = "auto",
    search: Searching = "auto",
    as_json: Json = False,
) -> None:
    """Curate a recipe's training images and train nothing: which are kept, and why the others fell."""
    from dinov2lab import commands, terminal
    from dinov2lab.data.source import Roots
    from dinov2lab.store.folders import Workspace

    spec, place = commands.find_recipe(recipe, sets or ()), Workspace(workspace)
    resources = commands.resources_for(1, device)[1].model_copy(update={"search": search})
    folder, page = commands.curate(spec, place, Roots(data_root, place.cache), resources)
    terminal.show_funnel(folder.funnel(), folder.path, as_json)
    if not as_json:
        typer.echo(f"page      {page}")


@app.command()
def why(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An image, by its path in its source.")],
    manifest: Annotated[
        str | None, typer.Option("--manifest", metavar="ID", help="Of a curation. [default: the latest]")
    ] = None,
    workspace: Place = LAB,
) -> None:
    """Say whether a curation kept an image, and what decided."""
    from dinov2lab import commands
    from dinov2lab.store.folders import Workspace

    for line in commands.why(path, manifest, Workspace(workspace)):
        typer.echo(line)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of a finished run, or how it begins.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is not there yet.")],
    to: Annotated[Literal["timm", "hf", "onnx"], typer.Option("--to", help="For whom.")],
    workspace: Place = LAB,
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
    workspace: Place = LAB,
    reports: Reports = REPORTS,
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
def ui(workspace: Place = LAB, port: Port = 5000) -> None:
    """Serve the MLflow pages of the workspace until Ctrl-C."""
    from dinov2lab.lab import tracking
    from dinov2lab.store.folders import Workspace

    place = Workspace(workspace)
    for study, address in tracking.pages(place, port).items():
        typer.echo(f"{study}   {address}")
    raise typer.Exit(tracking.ui(place, port))


if __name__ == "__main__":
    main()
