"""The best run of a study as a registered model of MLflow, which `mlflow models serve` answers with.

The best is chosen on val, as everything is that is chosen: test is for saying what came of it.
"""

import tempfile
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dinov2lab import __version__
from dinov2lab.lab.sending import Target
from dinov2lab.lab.tracking import mirroring, open_parent
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Registered(NamedTuple):
    name: str
    version: str
    run: str  # our id
    metric: str
    value: float


def register(study: Study, workspace: Workspace) -> Registered:
    """A version of the model named like the study, made of its best run's backbone; the one that is there, if it is.

    Raises ValueError where there is no best run or MLflow does not know it, TrackingError where MLflow fails.
    """
    cell, metric, value = best(study, workspace)
    with mirroring(workspace, wait=True) as target:
        open_parent(target, study, workspace)
        runs = [run.info.run_id for run in target.runs if run.data.tags.get("run_id") == cell.run]
        if not runs:
            raise ValueError(f"MLflow does not know run {cell.run}; dinov2lab sync {study.name}")
        version = _version(target.client, study.name, cell.run) or _new(target, study, cell, runs[0], workspace)
    return Registered(study.name, version, cell.run, metric, value)


def best(study: Study, workspace: Workspace) -> tuple[Cell, str, float]:
    """The finished run that does best on the val counterpart of the metric that the study decides on."""
    metric = study.decide.metric.replace("test/", "val/", 1)
    found = [
        (outcome.metrics[metric], cell)
        for cell in expand(study)
        if (outcome := workspace.run(cell.run).outcome()) and outcome.status == "finished" and metric in outcome.metrics
    ]
    if not metric.startswith("val/") or not found:
        raise ValueError(f"{study.name}: no finished run has {metric}, and the best is chosen on val alone")
    value, cell = max(found, key=lambda pair: pair[0])
    return cell, metric, value


def _version(client: "MlflowClient", name: str, run: str) -> str | None:
    known = client.search_model_versions(f"name = '{name}'")
    return next((str(each.version) for each in known if each.tags.get("run_id") == run), None)


def _new(target: Target, study: Study, cell: Cell, child: str, workspace: Workspace) -> str:
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        save(workspace.run(cell.run), Path(folder) / "model")
        target.client.log_artifacts(child, str(Path(folder) / "model"), "model")
    try:
        target.client.create_registered_model(study.name, description=study.question)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"run_id": cell.run, "arm": cell.arm, "seed": str(cell.seed)}
    made = target.client.create_model_version(study.name, f"runs:/{child}/model", child, tags)
    return str(made.version)


def save(folder: RunFolder, out: Path) -> None:
    """The run's backbone in MLflow's form, with its signature and an input example."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    if not folder.backbone.is_file():
        raise ValueError(f"{folder.backbone}: is not there, so the run has no model to register")
    inputs = Schema([ColSpec("binary", "image")])
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, folder.read_spec().model.architecture.dim))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow: that it makes no signature of type hints; there is one
        pyfunc.save_model(
            out,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"spec": str(folder.spec), "backbone": str(folder.backbone)},
            signature=ModelSignature(inputs, outputs),
            input_example=_example(folder.read_spec().views.global_px),
            pip_requirements=[f"dinov2lab=={__version__}"],
        )


def _example(px: int) -> Any:
    """A table of one grey picture."""
    import pandas as pd
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (px, px), (128, 128, 128)).save(file, "PNG")
    return pd.DataFrame({"image": [file.getvalue()]})
