"""How much of the variation between trials each field explains: fANOVA where scikit-learn is installed, else PED-ANOVA."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from dinov2lab.lab.proposals import distribution, encoded
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, read_trials

LEAST = 6  # complete trials that anything is said of


def write_importances(search: SearchSpec, workspace: Workspace) -> None:
    """searches/NAME/importances.json: the evaluator, the number of trials, and metric -> field -> share, largest first."""
    folder = workspace.search(search.name)
    told = [trial for trial in read_trials(folder) if trial.state == "complete" or _by_fewer_seeds(search, trial)]
    if len(told) < LEAST or len(search.space) < 2:
        return
    forest = find_spec("sklearn") is not None
    study, values = _study(search, told), dict[str, dict[str, float]]()
    for place, metric in enumerate(search.metrics):
        evaluator = FanovaImportanceEvaluator(seed=0) if forest else PedAnovaImportanceEvaluator()
        try:
            shares = get_param_importances(study, evaluator=evaluator, target=_value(place))
        except (ValueError, RuntimeError):  # all values are equal, say
            continue
        values[metric] = {key: float(share) for key, share in shares.items()}
    found = {"evaluator": "fANOVA" if forest else "PED-ANOVA", "trials": len(told), "values": values}
    atomic.write_json(folder / "importances.json", found)


def _by_fewer_seeds(search: SearchSpec, trial: Trial) -> bool:
    """Whether it was stopped after some of its seeds, which its value is the mean of."""
    return trial.state == "pruned" and not search.rungs and trial.values is not None


def _study(search: SearchSpec, trials: Sequence[Trial]) -> optuna.Study:
    """In memory: the storage of a search need not be at hand."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=list(search.metrics.values()))
    for trial in trials:
        params = {key: encoded(value) for key, value in trial.point.items()}
        known = {key: distribution(search.space[key]) for key in params}
        study.add_trial(create_trial(values=list(trial.values or ()), params=params, distributions=known))
    return study


def _value(place: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[place])
