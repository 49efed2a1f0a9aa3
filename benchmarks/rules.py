"""What the rules claim: of equal arms, where one of them scatters more than the others; and how many true differences.

    python benchmarks/rules.py [--studies N]

Four arms, alpha 0.05, one look. First one JSON line for each rule and ratio of standard deviations, baseline over others, at
three seeds: the share of studies in which anything is claimed. Then, where one or all three arms truly differ from the
baseline by four standard deviations of a run, the share of these differences that is found: by paired_t with Bonferroni's
correction, which has the intervals that a report shows, by the same p values with Holm's, which has none, and by blocked.
Last, of two equal arms, the share of studies in which anything is claimed, by the rules whose intervals are of another middle
of the differences, beside what percentiles of the same draws of seeds would claim, and paired_t.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dinov2lab.report.resampling import iqm_difference, median_difference, shares
from dinov2lab.report.statistics import Difference, blocked_differences, paired_difference, separates

ARMS, ALPHA, EFFECT = 4, 0.05, 4.0

Claims = NDArray[np.bool_]  # (arms without the baseline,)


def blocked(scores: np.ndarray) -> Claims:
    found = blocked_differences(scores[1:].tolist(), scores[0].tolist(), ALPHA, ARMS - 1)
    return np.array([separates(each, higher_is_better=True) != "not separable" for each in found])


def paired_t(scores: np.ndarray) -> Claims:
    found = [paired_difference(arm.tolist(), scores[0].tolist(), ALPHA, ARMS - 1) for arm in scores[1:]]
    return np.array([separates(each, higher_is_better=True) != "not separable" for each in found])


def holm(scores: np.ndarray) -> Claims:
    """Step by step, from the smallest p on, each against alpha over those that are left (Holm 1979)."""
    p = stats.ttest_1samp(scores[1:] - scores[0], 0, axis=1).pvalue
    order = np.argsort(p)
    passed = np.minimum.accumulate(p[order] <= ALPHA / np.arange(ARMS - 1, 0, -1))
    claims = np.zeros(ARMS - 1, bool)
    claims[order] = passed
    return claims


def percentile(differences: NDArray[np.float64], alpha: float) -> bool:
    """Whether the percentile interval of the interquartile mean leaves zero out (Agarwal et al. 2021)."""
    n = len(differences)
    low, high = np.quantile(shares(n, n // 4) @ np.sort(differences), (alpha / 2, 1 - alpha / 2))
    return bool(low > 0 or high < 0)


def alone(rule: Callable[..., Difference]) -> Callable[[NDArray[np.float64], float], bool]:
    """Of differences, whether a rule of theirs claims anything."""

    def claims(differences: NDArray[np.float64], alpha: float) -> bool:
        found = rule(differences.tolist(), [0.0] * len(differences), alpha, 1)
        return separates(found, higher_is_better=True) in ("better", "worse")

    return claims


MIDDLES = {
    "paired_t": alone(paired_difference),
    "median": alone(median_difference),
    "iqm": alone(iqm_difference),
    "iqm by percentiles": percentile,
}


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10_000)
    count = parser.parse_args().studies
    for ratio in (1.0, 1.5, 2.0, 3.0):
        deviations = np.array([ratio, *[1.0] * (ARMS - 1)])[:, None]
        studies = np.random.default_rng(0).normal(size=(count, ARMS, 3)) * deviations
        for rule in (blocked, paired_t):
            rate = np.mean([rule(scores).any() for scores in studies])
            say(rule=rule.__name__, ratio=ratio, claims=float(rate), studies=count)
    for seeds in (3, 5, 8):
        for differing in (1, ARMS - 1):
            shift = EFFECT * (np.arange(ARMS) > ARMS - 1 - differing)
            studies = np.random.default_rng(seeds).normal(size=(count, ARMS, seeds)) + shift[:, None]
            for rule in (paired_t, holm, blocked):
                found = np.mean([rule(scores)[-differing:].mean() for scores in studies])
                say(rule=rule.__name__, seeds=seeds, differing=differing, found=float(found), studies=count)
    for seeds in (5, 8, 12, 20, 50):
        for kind in ("normal", "t of 2 degrees", "one in ten is ten times as far"):
            generator = np.random.default_rng(seeds)
            studies = generator.normal(size=(count, seeds))
            if kind == "t of 2 degrees":
                studies = generator.standard_t(2, size=(count, seeds))
            elif kind != "normal":
                studies *= np.where(generator.random((count, seeds)) < 0.1, 10, 1)
            for alpha in (0.05, 0.0125):
                rates = {
                    name: float(np.mean([rule(each, alpha) for each in studies])) for name, rule in MIDDLES.items()
                }
                say(seeds=seeds, differences=kind, alpha=alpha, claims=rates, studies=count)


if __name__ == "__main__":
    main()
