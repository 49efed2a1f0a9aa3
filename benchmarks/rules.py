"""How often a rule claims a difference between equal arms, where one of them scatters more than the others.

    python benchmarks/rules.py [--studies N]

One JSON line for each rule and ratio of standard deviations: baseline over others, four arms, three seeds, alpha 0.05.
"""

import argparse
import json

import numpy as np

from dinov2lab.report.statistics import blocked_differences, paired_difference, separates

ARMS, SEEDS, ALPHA = 4, 3, 0.05


def blocked(scores: np.ndarray) -> bool:
    found = blocked_differences(scores[1:].tolist(), scores[0].tolist(), ALPHA, ARMS - 1)
    return any(separates(each, higher_is_better=True) != "not separable" for each in found)


def paired(scores: np.ndarray) -> bool:
    found = [paired_difference(arm.tolist(), scores[0].tolist(), ALPHA, ARMS - 1) for arm in scores[1:]]
    return any(separates(each, higher_is_better=True) != "not separable" for each in found)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--studies", type=int, default=10_000)
arguments = parser.parse_args()
for ratio in (1.0, 1.5, 2.0, 3.0):
    deviations = np.array([ratio, *[1.0] * (ARMS - 1)])[:, None]
    studies = np.random.default_rng(0).normal(size=(arguments.studies, ARMS, SEEDS)) * deviations
    for rule in (blocked, paired):
        rate = sum(rule(scores) for scores in studies) / len(studies)
        print(json.dumps({"rule": rule.__name__, "ratio": ratio, "claims": rate, "studies": len(studies)}))
