"""A study whose arms are tuned: the search of each arm, and the study at what they found."""

from collections.abc import Mapping

from dinov2lab.spec.points import DURATIONS, spec_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.spec.study import Found, Study, equalised

LONGEST = 120  # characters of a search's name


def searches(study: Study) -> dict[str, SearchSpec]:
    """Arm -> the search that tunes it, of a study that is to be tuned: the same budget and draws, on seeds of its own."""
    tune = study.tune
    assert tune is not None

    def of(arm: str) -> dict[str, object]:
        question = f"Which values does the arm {arm} of the study {study.name} want?"
        return {"name": f"{study.name}.{arm}", "question": question, "budget": tune.budget, "seeds": tune.seeds(arm)}

    return {
        arm.name: tune.per_arm.model_copy(update=of(arm.name) | {"base": arm.spec}) for arm in equalised(study).arms
    }


def tuned(study: Study, found: Mapping[str, Found]) -> Study:
    """`study` with each arm at the best point of its own search."""
    tune, of = study.tune, searches(study)
    assert tune is not None
    arms = [arm.model_copy(update={"spec": spec_at(of[arm.name], found[arm.name].point)}) for arm in study.arms]
    also = [*tune.per_arm.space, *(DURATIONS if tune.per_arm.equal != "steps" else ())]
    factor = dict.fromkeys((*study.factor, *also))
    done = tune.model_copy(update={"found": dict(found)})
    return study.model_copy(update={"arms": tuple(arms), "factor": tuple(factor), "tune": done})
