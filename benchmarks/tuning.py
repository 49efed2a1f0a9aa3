"""How often a study of two equal arms that were tuned claims a difference: once for all seeds, or once for each seed.

    python benchmarks/tuning.py [--studies N]

Points are drawn at random from the space of tests/synthetic.py, the same for both arms or others, as they are once a sampler
learns; each search takes the one that did best on one noisy run, and the arms run there with the same fresh seeds. One JSON
line for each way to tune, budget and number of seeds: the share of studies that claim a difference at 5 %, the mean true
difference in points of accuracy, and the share that claims one where one arm is better by so many points.
"""

import argparse
import itertools
import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov2lab.report.statistics import t_interval

NOISE, ALPHA = 0.01, 0.05
LOWEST, HIGHEST = (-5, 0.01), (-1, 0.1)  # log10 of the learning rate, and the temperature
BETTER = (0.02, 0.05)


class Way(NamedTuple):
    """To tune the two arms of a study."""

    per_seed: bool  # a search for each seed of the study, or one for all of them
    shared: bool  # the arms' searches try the same points
    budget: int  # trials of each search
    seeds: int


def truth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """tests/synthetic.py's, of points (..., 2)."""
    rate, temperature = points[..., 0] - np.log10(3e-3), (points[..., 1] - 0.04) / 0.03
    return 0.9 - 0.05 * (rate - 0.5 * temperature) ** 2 - 0.08 * temperature**2


def tuned(generator: np.random.Generator, way: Way, studies: int) -> NDArray[np.float64]:
    """(studies, 2, seeds) true values of the points that the searches take."""
    searches = (studies, 1 if way.shared else 2, way.seeds if way.per_seed else 1, way.budget)
    values = np.broadcast_to(truth(generator.uniform(LOWEST, HIGHEST, (*searches, 2))), (studies, 2, *searches[2:]))
    best = np.argmax(values + generator.normal(0, NOISE, values.shape), axis=-1, keepdims=True)
    return np.broadcast_to(np.take_along_axis(values, best, axis=-1)[..., 0], (studies, 2, way.seeds))


def differences(way: Way, studies: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(studies, seeds): paired differences as they are measured, and (studies,): as they truly are, on average."""
    generator = np.random.default_rng(seed)
    arms = tuned(generator, way, studies)
    scores = arms + generator.normal(0, NOISE, arms.shape)
    return scores[:, 1] - scores[:, 0], (arms[:, 1] - arms[:, 0]).mean(axis=-1)


def claimed(measured: NDArray[np.float64]) -> float:
    """The share of studies in which paired_t claims a difference."""
    low, high = t_interval(measured, ALPHA)
    return float(((low > 0) | (high < 0)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=50_000)
    studies = parser.parse_args().studies
    for way in itertools.starmap(Way, itertools.product((False, True), (True, False), (6, 12, 24, 48), (3, 5))):
        measured, true = differences(way, studies)
        told = way._asdict() | {"claims": claimed(measured), "mean_difference": 100 * float(np.abs(true).mean())}
        told |= {f"claims_at_{100 * by:g}": claimed(measured + by) for by in BETTER}
        print(json.dumps({name: round(value, 3) for name, value in told.items()}), flush=True)


if __name__ == "__main__":
    main()
