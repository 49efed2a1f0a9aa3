"""The arguments and options that commands share, each said once."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

LAB, HERE, REPORTS = Path("lab"), Path("."), Path("reports")
PORT, CONFIRM_SEEDS = 8080, 5


def _named(metavar: str, what: str, *folders: str) -> Any:
    """An argument that a shell completes to the names of the YAML files in `folders`."""

    def complete(incomplete: str) -> list[str]:
        found = sorted(file.stem for folder in folders for file in Path(folder).glob("*.yaml"))
        return [name for name in found if name.startswith(incomplete)]

    return typer.Argument(metavar=metavar, help=what, autocompletion=complete)


StudyName = Annotated[str, _named("STUDY", "A study: a YAML file, or its name in ./ablations.", "ablations")]
StudyNames = Annotated[list[str], _named("STUDY...", "A study, or several that are to be compared.", "ablations")]
RecipeName = Annotated[str, _named("RECIPE", "A recipe: a YAML file, or its name in ./experiments.", "experiments")]
Target = Annotated[str, _named("STUDY|RECIPE", "A YAML file, or its name in its folder.", "ablations", "experiments")]
SearchName = Annotated[str, _named("SEARCH", "A search: a YAML file, or its name in ./experiments.", "experiments")]
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
Append = Annotated[
    bool, typer.Option("--append", help="Images were added since the last time: do nothing of the old ones again.")
]
Shards = Annotated[int, typer.Option("--shards", min=1, help="In how many parts single images are worked on.")]
Shard = Annotated[
    int | None, typer.Option("--shard", help="Do this part alone, from 0, as far as it goes; then again, as it says.")
]
Nproc = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes that train one run together, a GPU or a core each.")
]
MicroBatches = Annotated[
    int, typer.Option("--micro-batches", min=1, help="Parts of a batch, one after the other: less memory.")
]
SideBySide = Annotated[int, typer.Option("--side-by-side", min=1, help="Parts of a batch at once, a core each.")]
Recompute = Annotated[
    Literal["nothing", "hidden", "blocks"], typer.Option("--recompute", help="In the backward pass, to save memory.")
]
Cut = Annotated[
    Literal["none", "weights"], typer.Option("--shard", help="What the processes of --nproc cut among them.")
]
Checkpoints = Annotated[int, typer.Option("--checkpoints", min=1, help="Of a run that are kept, the latest.")]
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
Watch = Annotated[bool, typer.Option("--watch", help="Go on, and write it anew as runs go on, until all have ended.")]
Storage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="An Optuna database. [default: a journal in the workspace]"),
]
TransferFrom = Annotated[
    list[str] | None,
    typer.Option("--transfer-from", metavar="SEARCH", help="Try the best points of a search of a smaller model first."),
]
Confirm = Annotated[
    int, typer.Option("--confirm", min=0, metavar="K", help="Train the best K and the base again with fresh seeds.")
]
ConfirmSeeds = Annotated[int, typer.Option("--confirm-seeds", min=2, help="How many, for --confirm.")]
Dashboard = Annotated[bool, typer.Option("--dashboard", help="Show the search in optuna-dashboard, until Ctrl-C.")]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the page, on this machine only.")]
Network = Annotated[
    str,
    typer.Argument(
        metavar="RUN|STUDY|FILE|timm:NAME",
        help="A finished run, all of a study, a checkpoint in a run's folder, a timm model.",
    ),
]
On = Annotated[
    list[str] | None,
    typer.Option("--on", metavar="URI", help="What to test on; may be given again. [default: the run's own]"),
]
Memory = Annotated[
    str | None, typer.Option("--memory", metavar="URI", help="What to learn from. [default: the run's own]")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metrics", metavar="NAMES", help="Such as knn,linear_grid. [default: what the images allow]"),
]
Px = Annotated[int | None, typer.Option("--px", min=1, help="Of a timm model's images. [default: as it was trained]")]
Skipped = Annotated[
    bool, typer.Option("--skipped", help="Complete what runs have skipped, as its images were not there.")
]
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
