"""Health measures on features whose state is known."""

import math

import pytest
import torch

from dinov2lab.evaluation.health import alignment, feature_std, rankme, uniformity


def with_spectrum(values: list[float], rows: int = 64) -> torch.Tensor:
    """Features whose singular values are `values`."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right


@pytest.mark.parametrize(
    ("values", "rank"),
    [
        ([1.0] * 8, 8.0),
        ([5.0] * 3 + [0.0] * 5, 3.0),
        ([2.0] + [0.0] * 7, 1.0),
        (
            [1.0, 0.5, 0.25, 0.25],
            math.exp(-(0.5 * math.log(0.5) + 0.25 * math.log(0.25) + 2 * 0.125 * math.log(0.125))),
        ),
    ],
)
def test_rankme_is_the_exponential_of_the_spectrums_entropy(values, rank):
    assert rankme(with_spectrum(values)) == pytest.approx(rank, rel=1e-4)
    assert rankme(1000 * with_spectrum(values)) == pytest.approx(rank, rel=1e-4)


def test_feature_std_is_one_when_spread_out_and_zero_when_collapsed():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(2000, 64, generator=generator) * torch.rand(2000, 1, generator=generator)
    assert feature_std(spread) == pytest.approx(1, abs=0.02)
    point = torch.randn(1, 64, generator=generator).expand(100, -1)
    assert feature_std(point) == pytest.approx(0, abs=1e-5)
    assert 0.05 < feature_std(spread[:100] + 50 * point[:1] / point.norm() * 8**0.5) < 0.6


def test_dead_features_are_numbers_too():
    assert feature_std(torch.zeros(10, 4)) == 0
    assert math.isfinite(rankme(torch.zeros(10, 4)))


def test_uniformity_and_alignment_are_those_counted_pair_by_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(24, 5, generator=generator), torch.arange(24) % 3
    unit = (rows / rows.norm(dim=1, keepdim=True)).double()
    pairs = [(a, b) for a in range(24) for b in range(a)]
    distance = {(a, b): float((unit[a] - unit[b]).square().sum()) for a, b in pairs}
    potential = sum(math.exp(-2 * each) for each in distance.values()) / len(pairs)
    assert uniformity(rows) == pytest.approx(math.log(potential))
    same = [each for (a, b), each in distance.items() if labels[a] == labels[b]]
    assert alignment(rows, labels) == pytest.approx(sum(same) / len(same))


def test_what_has_collapsed_is_not_uniform_and_is_aligned_and_noise_is_neither() -> None:
    labels = torch.arange(64) % 4
    collapsed = torch.ones(64, 8)
    assert uniformity(collapsed) == pytest.approx(0)
    assert alignment(collapsed, labels) == pytest.approx(0)
    noise = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    assert uniformity(noise) < -3.5
    assert alignment(noise, labels) == pytest.approx(2, abs=0.1)
    assert alignment(noise, torch.arange(64)) is None
