"""What a notebook calls, as `dinov2lab.NAME`: studies and recipes in, tables and features out. docs/notebook.py shows it.

Nothing here does what the commands do not: the same files, the same runs, the same mistakes as ValueErrors of a line or two.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinov2lab import commands, tuning
from dinov2lab.data.decode import decode
from dinov2lab.data.loader import as_tensor, centred
from dinov2lab.data.source import Roots, open_source
from dinov2lab.data.views import normalise
from dinov2lab.model import weights
from dinov2lab.model.features import features as of_batches
from dinov2lab.model.vit import Backbone
from dinov2lab.report.results import results_table
from dinov2lab.report.tables import read_runs
from dinov2lab.spec.cost import flops_of_run
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store import studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

__all__ = ["features", "load_backbone", "load_recipe", "load_study", "results", "run"]

Folder = Path | str
Device = Literal["auto", "cpu", "cuda"]
Picture = Path | str | Image.Image | NDArray[np.uint8]  # a file, a picture, or (H, W, 3) RGB
LAB = "lab"
BATCH = 64  # images at a time


def load_study(name: Folder, overrides: Sequence[str] = (), workspace: Folder = LAB) -> Study:
    """The study in a YAML file, or of that name in ./ablations, or one that ran in `workspace` under a name of its own.

    `overrides` are those of --set: `["optim.lr=1e-3", "seeds=[0, 1]"]`. Raises ValueError.
    """
    place = Workspace(Path(workspace))
    if not overrides and not Path(name).is_file() and (last := studies.stored(str(name), place)):
        return last
    found = commands.find_either(str(name), overrides, place)
    if not isinstance(found, Study):
        raise ValueError(f"{name}: is a recipe, and a study is wanted; load_recipe reads recipes")
    return found


def run(
    what: Study | RunSpec,
    *,
    workspace: Folder = LAB,
    data_root: Folder = ".",
    reports: Folder = "reports",
    jobs: int | None = None,
    device: Device = "auto",
    rerun: bool = False,
) -> tuple[RunResult, ...]:
    """Train what of a study or recipe has no result yet, as `dinov2lab run` does; a study's report is written.

    Returns the outcome of each run, failed ones too, in the order of `expand`. Raises ValueError.
    """
    place = Workspace(Path(workspace))
    roots = Roots(Path(data_root), place.cache)
    if isinstance(what, RunSpec):
        one = Cell("", what.seed, run_id(what), what)
        return (commands.run_recipe(one, place, roots, commands.resources_for(1, device)[1], rerun=rerun),)
    at_once, resources = commands.resources_for(jobs, device)
    if what.untuned:
        what = tuning.tune_here(what, place, roots, Path(reports), at_once, resources)
    report = Path(reports) / what.name
    commands.run_study(what, place, roots, report, jobs=at_once, resources=resources, rerun=rerun)
    outcomes = [place.run(cell.run).outcome() for cell in expand(what)]
    return tuple(outcome for outcome in outcomes if outcome)


def results(study: Study | str, workspace: Folder = LAB) -> pd.DataFrame:
    """Everything measured of a study so far, one value a row: study, arm, seed, run, metric, step, value, cost.

    The final metrics stand at a run's last step, with what it cost under cost/images, cost/seconds and their like; what
    was logged on the way is thinned, as in a report's results.csv. `cost` is what training up to that step takes of FLOPs
    (spec/cost.py).
    """
    found = load_study(study, workspace=workspace) if isinstance(study, str) else study
    frame: pd.DataFrame = results_table(found, read_runs(found, Workspace(Path(workspace)))).to_pandas()
    per_step = {cell.run: flops_of_run(cell.spec) / cell.spec.optim.steps for cell in expand(found)}
    frame["cost"] = frame["step"] * frame["run"].astype(str).map(per_step).astype(float)
    return frame


def load_backbone(run: RunResult | str, workspace: Folder = LAB) -> Backbone:
    """The trained teacher of a finished run, by its result, its id or how that begins; in eval mode, on the CPU."""
    folder = _folder(run, workspace)
    return weights.load_backbone(folder.read_spec(), folder.backbone).eval()


def features(
    run: RunResult | str,
    images: Sequence[Picture] | str,
    *,
    workspace: Folder = LAB,
    data_root: Folder = ".",
    device: str = "cpu",
) -> NDArray[np.float32]:
    """(N, D) class tokens of a finished run's backbone, in the order of `images`, which are seen as evaluations see them.

    `images`: files, PIL pictures or (H, W, 3) arrays; or the URI of a source, such as "folder:photos". Raises ValueError for
    one that cannot be read.
    """
    px, backbone = _folder(run, workspace).read_spec().views.global_px, load_backbone(run, workspace).to(device)
    if not isinstance(images, str):
        pictures: Iterator[Image.Image] = (_picture(each) for each in images)
    else:
        source = open_source(images, Roots(Path(data_root), Workspace(Path(workspace)).cache))
        pictures = (_decoded(source.read(row), name) for row, name in enumerate(source.paths))
    return of_batches(backbone, _batches(pictures, px)).numpy()


def _folder(run: RunResult | str, workspace: Folder) -> RunFolder:
    return commands.find_run(run.run if isinstance(run, RunResult) else run, Workspace(Path(workspace)))


def _picture(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    return _decoded(Path(image).read_bytes(), str(image))


def _decoded(data: bytes, name: str) -> Image.Image:
    try:
        return Image.fromarray(decode(data))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _batches(pictures: Iterator[Image.Image], px: int) -> Iterator[Tensor]:
    while some := list(islice(pictures, BATCH)):
        yield normalise(as_tensor([centred(each, px) for each in some]))
