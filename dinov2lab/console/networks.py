"""Commands about trained networks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dinov2lab import options


def evaluate(
    target: options.Network,
    on: options.On = None,
    memory: options.Memory = None,
    metrics: options.Metrics = None,
    px: options.Px = None,
    skipped: options.Skipped = False,
    workspace: options.Place = options.LAB,
    data_root: options.DataRoot = options.HERE,
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
        commands.refuse("is for this machine", skipped=skipped)
        commands.refuse("on Slurm a profile says it: --slurm gpus_per_node=N", device=device != "auto")
        evaluating.send(target, place, roots, wish, evaluating.Cluster(profiles or (), slurm or (), dry_run), as_json)
        return
    commands.refuse_slurm_words(profiles, slurm, ["--dry-run"] * dry_run)
    if skipped:
        evaluating.show_completed(evaluating.complete(target, place, roots, wish), as_json)
    else:
        evaluating.show(evaluating.evaluate(target, place, roots, wish), as_json)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of a finished run, or how it begins.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is not there yet.")],
    to: Annotated[Literal["timm", "hf", "onnx"], typer.Option("--to", help="For whom.")],
    workspace: options.Place = options.LAB,
    as_json: options.Json = False,
) -> None:
    """Write a run's backbone for timm, transformers or ONNX, with a model card; its features are compared."""
    from dinov2lab import commands, terminal
    from dinov2lab.store.folders import Workspace

    folder = commands.find_run(run, Workspace(workspace))
    from dinov2lab.export.formats import export as write

    done = write(folder, to, out)
    if as_json:
        terminal.say_json({"folder": str(done.folder), "to": to, "largest_difference": done.difference})
        return
    typer.echo(f"{done.folder}   the largest difference between features is {done.difference:.1e}")
