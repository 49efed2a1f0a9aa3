"""What the rules claim: of equal arms, where one of them scatters more than the others; and how many true differences.

    python benchmarks/rules.py [--studies N]

Four arms, alpha 0.05, one look. First one JSON line for each rule and ratio of standard deviations, baseline over others, at
three seeds: the share of studies in which anything is claimed. Then, where one or all three arms truly differ from the
baseline by four standard deviations of a run, the share of these differences that is found: by paired_t with Bonferroni's
correction, which has the intervals that a report shows, by the same p values with Holm's, which has none, and by blocked.
Last, of two equal arms, the share of studies in which anything is claimed, by the rules whose intervals are of another middle
of the differences, beside what percentiles of the same draws of seeds would claim, and paired_t.

All studies are decided at once; tests/report/test_rules.py and test_resampling.py hold that to what the rules decide one by
one.
"""

import argparse
import json

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dinov2lab.report.resampling import shares
from dinov2lab.report.statistics import blocked_scale, paired_scale

ARMS, ALPHA, EFFECT = 4, 0.05, 4.0

Scores = NDArray[np.float64]  # (studies, arms, seeds), the baseline first
Claims = NDArray[np.bool_]  # (studies, arms without the baseline), or (studies,) of two arms


def blocked(scores: Scores) -> Claims:
    arms, n = scores.shape[1:]
    residuals = scores - scores.mean(axis=2, keepdims=True) - scores.mean(axis=1, keepdims=True)
    residuals += scores.mean(axis=(1, 2), keepdims=True)
    scale = blocked_scale(arms, n, ALPHA, arms - 1)
    deviation = np.sqrt(2 * (residuals**2).sum(axis=(1, 2)) / scale.df / n)
    return np.abs((scores[:, 1:] - scores[:, :1]).mean(axis=2)) > scale.critical * deviation[:, None]


def paired_t(scores: Scores) -> Claims:
    return p_values(scores) <= ALPHA / (scores.shape[1] - 1)


def holm(scores: Scores) -> Claims:
    """Step by step, from the smallest p on, each against alpha over those that are left (Holm 1979)."""
    p = p_values(scores)
    order = np.argsort(p, axis=1)
    steps = np.take_along_axis(p, order, axis=1) <= ALPHA / np.arange(p.shape[1], 0, -1)
    claims = np.zeros_like(steps)
    np.put_along_axis(claims, order, np.logical_and.accumulate(steps, axis=1), axis=1)
    return claims


def p_values(scores: Scores) -> NDArray[np.float64]:
    return np.asarray(stats.ttest_1samp(scores[:, 1:] - scores[:, :1], 0, axis=2).pvalue)


def middles(differences: NDArray[np.float64], alpha: float) -> dict[str, float]:
    """Rule -> in how many of the studies (studies, seeds) zero is outside its interval."""
    n, ordered = differences.shape[1], np.sort(differences, axis=1)
    scale, cut = paired_scale(n, alpha), n // 4
    t = ordered.mean(axis=1) / ordered.std(axis=1, ddof=1) * np.sqrt(n)
    tail = int(np.searchsorted(stats.binom.cdf(np.arange(n), n, 0.5), alpha / 2, side="right"))
    found = {"paired_t": np.abs(t) > scale.critical}
    if tail:
        found["median"] = (ordered[:, tail - 1] > 0) | (ordered[:, -tail] < 0)
    deviations, ends = [], []
    for part in np.array_split(ordered, len(ordered) // 500 + 1):
        again = part @ shares(n, cut).T  # (studies, draws)
        deviations.append(again.std(axis=1) * np.sqrt(n / (n - 1)))
        ends.append(np.quantile(again, (alpha / 2, 1 - alpha / 2), axis=1))
    low, high = np.concatenate(ends, axis=1)
    found["iqm"] = np.abs(ordered[:, cut : n - cut].mean(axis=1)) > scale.critical * np.concatenate(deviations)
    found["iqm by percentiles"] = (low > 0) | (high < 0)
    return {name: float(claims.mean()) for name, claims in found.items()}


def drawn(kind: str, studies: int, seeds: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seeds)
    if kind == "t of 2 degrees":
        return generator.standard_t(2, size=(studies, seeds))
    values = generator.normal(size=(studies, seeds))
    return values if kind == "normal" else values * np.where(generator.random((studies, seeds)) < 0.1, 10, 1)


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
            say(rule=rule.__name__, ratio=ratio, claims=float(rule(studies).any(axis=1).mean()), studies=count)
    for seeds in (3, 5):
        for differing in (1, ARMS - 1):
            shift = EFFECT * (np.arange(ARMS) > ARMS - 1 - differing)
            studies = np.random.default_rng(seeds).normal(size=(count, ARMS, seeds)) + shift[:, None]
            for rule in (paired_t, holm, blocked):
                found = float(rule(studies)[:, -differing:].mean())
                say(rule=rule.__name__, seeds=seeds, differing=differing, found=found, studies=count)
    for seeds in (5, 8, 12, 20, 50):
        for kind in ("normal", "t of 2 degrees", "one in ten is ten times as far"):
            for alpha in (0.05, 0.0125):
                rates = middles(drawn(kind, count, seeds), alpha)
                say(seeds=seeds, differences=kind, alpha=alpha, claims=rates, studies=count)


if __name__ == "__main__":
    main()
