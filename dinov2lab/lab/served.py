"""What `mlflow models serve` loads of a registered model: pictures in, class tokens out, prepared as for every evaluation.

MLflow keeps this very file beside the weights and runs it, so that it says nothing but what to call.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.data.decode import decode
from dinov2lab.data.loader import as_tensor, centred
from dinov2lab.data.views import normalise
from dinov2lab.model.features import features
from dinov2lab.model.weights import load_backbone
from dinov2lab.spec.run import RunSpec


class ClassTokens(PythonModel):  # type: ignore[misc]  # mlflow has no types here
    def load_context(self, context: PythonModelContext) -> None:
        """The backbone of the run whose spec and weights lie beside this file."""
        spec = RunSpec.model_validate_json(Path(context.artifacts["spec"]).read_bytes())
        self.backbone = load_backbone(spec, Path(context.artifacts["backbone"]))
        self.px = spec.views.global_px

    def predict(self, context: PythonModelContext, model_input: Any, params: Any = None) -> NDArray[np.float32]:
        """(rows, D) of a table with a column `image`: the bytes of picture files."""
        pictures = [centred(Image.fromarray(decode(data)), self.px) for data in model_input["image"]]
        tokens: NDArray[np.float32] = features(self.backbone, [normalise(as_tensor(pictures))]).numpy()
        return tokens


set_model(ClassTokens())
