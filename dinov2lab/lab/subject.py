"""What can be evaluated: a finished run, the weights in a file of a run's folder, a model of timm's."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from dinov2lab.model.features import Network
from dinov2lab.model.vit import Backbone
from dinov2lab.model.weights import Pretrained, digest, fitting, load_backbone, read
from dinov2lab.spec.evaluation import EvaluationSpec
from dinov2lab.store.evaluation import TIMM
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder


class Subject(NamedTuple):
    name: str
    network: Network
    px: int
    weights: str  # a digest
    spec: EvaluationSpec  # how it is evaluated unless something else is asked for
    folder: Path  # of its evaluations

    @property
    def tokens(self) -> bool:
        """Whether it has a class token among patch tokens."""
        return isinstance(self.network, Backbone) or bool(getattr(self.network.network, "has_class_token", False))


def of_run(folder: RunFolder) -> Subject:
    spec = folder.read_spec()
    backbone = load_backbone(spec, folder.backbone)
    return _subject(folder.path.name, backbone, spec.views.global_px, spec.evaluation, folder.evaluations)


def of_timm(name: str, px: int | None, workspace: Workspace) -> Subject:
    network = Pretrained(name, px)
    return _subject(f"{TIMM}{name}", network, network.px, EvaluationSpec(), workspace.evaluations)


def of_file(file: Path) -> Subject:
    """The teacher in a checkpoint, or a backbone, in the folder of a run. Raises ValueError for all else."""
    folder = RunFolder(file.parent)
    if not folder.spec.exists():
        hint = "; a folder of timm's is timm:local-dir:PATH"
        raise ValueError(f"{file}: no spec.json beside it says what network it holds{hint}")
    spec, content = folder.read_spec(), read(file)
    backbone = Backbone(spec.model, spec.views.global_px)
    backbone.load_state_dict(fitting(_backbone_in(content), backbone, str(file)))
    return _subject(str(file), backbone, spec.views.global_px, spec.evaluation, folder.evaluations)


def _backbone_in(content: dict[str, Tensor | dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of a checkpoint, the teacher's."""
    teacher, prefix = content.get("teacher"), "backbone."
    if isinstance(teacher, dict):
        return {key.removeprefix(prefix): value for key, value in teacher.items() if key.startswith(prefix)}
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _subject(name: str, network: Network, px: int, spec: EvaluationSpec, folder: Path) -> Subject:
    return Subject(name, network, px, digest(network.state_dict()), spec, folder)
