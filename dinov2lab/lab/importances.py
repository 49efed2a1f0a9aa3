"""How much of the variation between trials each field explains: fANOVA where scikit-learn is installed, else PED-ANOVA."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from dinov2lab.spec.search import SearchSpec
from dinov2lab.store import atomic

LEAST = 6  # complete trials that anything is said of


def write_importances(study: optuna.Study, search: SearchSpec, folder: Path) -> None:
    """searches/NAME/importances.json: the evaluator, the number of trials, and metric -> field -> share, largest first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < LEAST or len(search.space) < 2:
        return
    forest = find_spec("sklearn") is not None
    values = {}
    for place, metric in enumerate(search.metrics):
        evaluator = FanovaImportanceEvaluator(seed=0) if forest else PedAnovaImportanceEvaluator()
        try:
            shares = get_param_importances(study, evaluator=evaluator, target=_value(place))
        except (ValueError, RuntimeError):  # all values are equal, say
            continue
        values[metric] = {key: float(share) for key, share in shares.items()}
    evaluator_name = "fANOVA" if forest else "PED-ANOVA"
    atomic.write_json(
        folder / "importances.json", {"evaluator": evaluator_name, "trials": len(complete), "values": values}
    )


def _value(place: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[place])
