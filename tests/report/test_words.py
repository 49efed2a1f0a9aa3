"""How numbers read, and that no path of a machine survives."""

import pytest

from dinov2lab.report import words
from dinov2lab.report.figures import POINTS, thinned, ticks
from dinov2lab.report.statistics import Interval


@pytest.mark.parametrize(
    ("metric", "amount", "text"),
    [
        ("test/knn", 0.6121, "61.2"),
        ("untrained/val/linear", 0.05, "5.0"),
        ("health/rankme", 80.0, "80.0"),
        ("loss/total", 1234.5, "1\u202f234"),
        ("loss/total", 0.000012, "1.20e−5"),
        ("loss/koleo", -0.25, "−0.250"),
        ("test/knn", float("nan"), "NaN"),
        ("test/knn", None, "–"),
    ],
)
def test_values(metric, amount, text):
    assert words.value(metric, amount) == text


@pytest.mark.parametrize(("amount", "text"), [(0.053, "+5.3"), (-0.053, "−5.3"), (0.0001, "0.0"), (-0.0001, "0.0")])
def test_differences_of_accuracies_are_signed_points(amount, text):
    assert words.signed("test/knn", amount) == text


def test_an_interval_keeps_both_signs():
    assert words.signed_span("test/knn", Interval(-0.012, 0.034)) == "−1.2 to +3.4"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("no such file: /home/ann/data/a.png", "no such file: …/a.png"),
        ("'/home/ann/my data/a.png' is broken", "'…/a.png' is broken"),
        ("parquet:/mnt/x/pool.parquet changed", "parquet:…/pool.parquet changed"),
        ("file:///mnt/x/pool.parquet", "…/pool.parquet"),
        ("~/data/a.png", "…/a.png"),
        (r"C:\Users\ann\a.png", "…/a.png"),
        ("test/knn and/or +/- 3 images/s, 1 / 2", "test/knn and/or +/- 3 images/s, 1 / 2"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("pool/00001.jpg", "pool/00001.jpg"),
    ],
)
def test_absolute_paths_lose_their_folders(text, clean):
    assert words.without_folders(text) == clean


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 14.4), (0.001, 0.0042), (28, 61), (0, 32_000)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert low <= found[0] < found[-1] <= high


def test_long_curves_are_averaged_and_gaps_stay_gaps():
    points = [(float(x), float("nan") if x >= 5000 else 1.0) for x in range(10_000)]
    thin = thinned(points)
    assert len(thin) == POINTS
    assert thin[0] == (24.5, 1.0)
    assert thin[-1][1] != thin[-1][1]
