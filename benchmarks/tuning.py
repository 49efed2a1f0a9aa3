"""How often a study of two equal arms that were tuned apart claims a difference, and how large it is: the luck of a search.

    python benchmarks/tuning.py [--studies N]

Points are drawn at random from the space of tests/synthetic.py, the same for both arms or others, as they are once a sampler
learns; each arm takes the one that did best on one noisy run, and both run there with the same fresh seeds. One JSON line for
each budget and number of seeds; differences in points of accuracy.
"""

import argparse
import itertools
import json

import numpy as np
from numpy.typing import NDArray

from dinov2lab.report.statistics import paired_difference, separates

NOISE, ALPHA = 0.01, 0.05


def truth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """tests/synthetic.py's, of points (..., 2): log10 of the learning rate, and the temperature."""
    rate, temperature = points[..., 0] - np.log10(3e-3), (points[..., 1] - 0.04) / 0.03
    return 0.9 - 0.05 * (rate - 0.5 * temperature) ** 2 - 0.08 * temperature**2


def tuned(generator: np.random.Generator, points: NDArray[np.float64]) -> float:
    """The true value of the point that a search takes."""
    values = truth(points)
    return float(values[np.argmax(values + generator.normal(0, NOISE, len(points)))])


def study(generator: np.random.Generator, budget: int, seeds: int, shared: bool) -> tuple[float, bool]:
    """(the true difference, whether one is claimed)."""
    points = [generator.uniform((-5, 0.01), (-1, 0.1), (budget, 2)) for _ in range(2)]
    arms = [tuned(generator, points[0 if shared else arm]) for arm in range(2)]
    scores = [(value + generator.normal(0, NOISE, seeds)).tolist() for value in arms]
    found = separates(paired_difference(scores[1], scores[0], ALPHA, 1), higher_is_better=True)
    return 100 * abs(arms[1] - arms[0]), found in ("better", "worse")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--studies", type=int, default=1000)
arguments = parser.parse_args()
for shared, budget, seeds in itertools.product((True, False), (6, 12, 24, 48), (3, 5)):
    generator = np.random.default_rng(0)
    found = [study(generator, budget, seeds, shared) for _ in range(arguments.studies)]
    differences, claims = zip(*found, strict=True)
    told = {"points": "shared" if shared else "apart", "budget": budget, "seeds": seeds}
    told |= {"claims": round(sum(claims) / len(claims), 3), "mean_difference": round(float(np.mean(differences)), 2)}
    print(json.dumps(told), flush=True)
