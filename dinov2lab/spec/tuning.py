"""A study whose arms are tuned: the search of each place, and the study at what they found."""

import zlib
from collections.abc import Mapping

from dinov2lab.spec.points import DURATIONS, spec_at
from dinov2lab.spec.search import Sampler, SearchSpec
from dinov2lab.spec.study import Arm, Found, Place, Study, equalised

LONGEST = 120  # characters of a search's name


def searches(study: Study) -> dict[Place, SearchSpec]:
    """The search of each place of a study that is to be tuned: the same budget and, for one seed, the same draws for all
    arms; on seeds that are its own.
    """
    tune, arms = study.tune, {arm.name: arm.spec for arm in equalised(study).arms}
    assert tune is not None

    def of(place: Place) -> dict[str, object]:
        return {
            "name": f"{study.name}.{place}",
            "question": f"Which values does the arm {place.arm} of the study {study.name} want?",
            "budget": tune.budget,
            "seeds": tune.seeds(place),
            "sampler": _sampler(tune.per_arm.sampler, place.seed),
            "base": arms[place.arm],
        }

    return {place: tune.per_arm.model_copy(update=of(place)) for place in study.places}


def _sampler(sampler: Sampler, seed: int | None) -> Sampler:
    """With draws of its own for each seed of the study: otherwise all of them would be tuned with one and the same luck."""
    if seed is None:
        return sampler
    return sampler.model_copy(update={"seed": zlib.crc32(f"{sampler.seed}/{seed}".encode())})


def tuned(study: Study, found: Mapping[str, Found]) -> Study:
    """`study` with each arm at the best point of its own search, or on each seed at that of the search for it."""
    tune, of = study.tune, searches(study)
    assert tune is not None

    def at_best(arm: Arm) -> Arm:
        best = {place.seed: spec_at(of[place], found[str(place)].point) for place in of if place.arm == arm.name}
        return arm.model_copy(update={"at": best} if tune.per == "seed" else {"spec": best[None]})

    also = [*tune.per_arm.space, *(DURATIONS if tune.per_arm.equal != "steps" else ())]
    factor = dict.fromkeys((*study.factor, *also))
    done = tune.model_copy(update={"found": dict(found)})
    return study.model_copy(update={"arms": tuple(map(at_best, study.arms)), "factor": tuple(factor), "tune": done})
