"""Every arm of the studies of the paper's tables takes its first steps through `execute`."""

from pathlib import Path

import pytest

from dinov2lab.data.source import Roots
from dinov2lab.lab.execute import execute
from dinov2lab.spec.load import load_study
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec, RunWeights
from dinov2lab.spec.study import with_steps
from dinov2lab.store.folders import Workspace

ABLATIONS = Path(__file__).parent.parent.parent / "ablations"
STUDIES = ("training_recipe", "loss_components", "resolution", "distillation", "teacher_temperature")
ARMS = [(study, arm.name) for study in STUDIES for arm in load_study(ABLATIONS / f"{study}.yaml").arms]


def short(spec: RunSpec) -> RunSpec:
    """Three steps on few images, of each run that is in it."""
    model, objective = spec.model, spec.objective
    if isinstance(model.weights, RunWeights):
        model = model.model_copy(update={"weights": model.weights.model_copy(update={"run": short(model.weights.run)})})
    if objective.distill:
        distill = objective.distill.model_copy(update={"run": short(objective.distill.run)})
        objective = objective.model_copy(update={"distill": distill})
    data = spec.data.model_copy(update={"train": "toyweb:queries?images=96"})
    evaluation = spec.evaluation.model_copy(update={"memory": None, "test": None})
    parts = {"model": model, "objective": objective, "data": data, "evaluation": evaluation, "curation": None}
    return with_steps(spec.model_copy(update=parts), 3)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.mark.system
@pytest.mark.parametrize(("study", "arm"), ARMS)
def test_an_arm_takes_its_first_steps(study: str, arm: str, lab: Path) -> None:
    spec = next(each.spec for each in load_study(ABLATIONS / f"{study}.yaml").arms if each.name == arm)
    workspace = Workspace(lab)
    result = execute(short(spec), workspace, Roots(lab, workspace.cache), Resources(device="cpu"))
    assert result.error is None
    assert workspace.run(result.run).rows()[-1]["step"] == 3
