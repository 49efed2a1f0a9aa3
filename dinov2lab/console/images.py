"""Commands about training images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from dinov2lab import options


def curate(
    recipe: options.RecipeName,
    sets: options.Sets = None,
    workspace: options.Place = options.LAB,
    data_root: options.DataRoot = options.HERE,
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
    from dinov2lab import commands
    from dinov2lab.data.source import Roots
    from dinov2lab.store.folders import Workspace

    spec, place = commands.find_recipe(recipe, sets or ()), Workspace(workspace)
    cluster_words = [*(profiles or ()), *(slurm or ()), *(["--dry-run"] * dry_run)]
    local = {"device": device != "auto", "search": search != "auto"}
    _check(append, shard, shards, launcher, cluster_words, local, as_json)
    from dinov2lab import curating  # and torch with it: what is refused is refused at once

    resources = commands.resources_for(1, device)[1].model_copy(update={"search": search})
    work = curating.Work(spec, place, Roots(data_root, place.cache), resources, shards)
    if launcher == "slurm":
        curating.send(Path(recipe).stem, work, profiles or (), slurm or (), dry_run=dry_run, as_json=as_json)
    elif shard is not None:
        curating.curate_part(work, shard)
    else:
        curating.curate(work, append, as_json)


def _check(
    append: bool,
    shard: int | None,
    shards: int,
    launcher: str,
    slurm_words: Sequence[str],
    local: Mapping[str, bool],
    as_json: bool,
) -> None:
    """Raises ValueError for what does not go together."""
    from dinov2lab.commands import refuse

    if launcher == "local" and slurm_words:
        raise ValueError("--profile, --slurm and --dry-run are for --launcher slurm")
    if launcher == "slurm" and (append or shard is not None):
        raise ValueError("--launcher slurm submits all shards; --append and --shard are for this machine")
    if launcher == "slurm":
        refuse("is for this machine; on Slurm the profile says what jobs compute on", **local)
    if shard is not None:
        refuse("one shard shows no funnel; it is for the whole curation", json=as_json)
    if append and shards > 1:
        raise ValueError("--append and --shards do not go together: what is added is worked on as one")
    if shard is not None and not 0 <= shard < shards:
        raise ValueError(f"--shard {shard}: with --shards {shards} they are numbered from 0 to {shards - 1}")


def why(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An image, by its path in its source.")],
    manifest: Annotated[
        str | None, typer.Option("--manifest", metavar="ID", help="Of a curation. [default: the latest]")
    ] = None,
    workspace: options.Place = options.LAB,
    as_json: options.Json = False,
) -> None:
    """Say whether a curation kept an image, and what decided."""
    from dinov2lab import curating, terminal
    from dinov2lab.store.folders import Workspace

    said = curating.why(path, manifest, Workspace(workspace))
    if as_json:
        terminal.say_json({"path": path, "said": said})
    else:
        terminal.say("\n".join(said))
