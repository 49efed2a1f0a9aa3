"""Linear depth: what a probe can learn, errors against naive code, unknown pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinov2lab.evaluation.depth import compared, depth_errors, nearest_step

OPTIONS = {"epochs": 40, "batch": 64, "bins": 8}


def drawn(images: int, seed: int, side: int = 4, patch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, depths): each patch at one of four depths, which its token tells among noise."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randint(4, (images, side, side), generator=generator)
    tokens = torch.nn.functional.one_hot(grid.flatten(1), 4).float()
    tokens += 0.05 * torch.randn(tokens.shape, generator=generator)
    depths = torch.tensor([0.2, 0.4, 0.7, 1.0])[grid]
    return tokens, depths.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


def test_a_probe_finds_the_depth_that_the_tokens_tell_and_none_where_they_tell_nothing() -> None:
    (memory, known), (queries, depths) = drawn(40, 0), drawn(20, 1)
    found = depth_errors(memory, known, queries, depths, lrs=(0.3, 1e-6), **OPTIONS)
    assert found[0.3].order > 0.85  # pixels between two patches are mixed
    assert found[0.3].rmse < 0.15 < found[1e-6].rmse
    assert found[0.3].near > found[1e-6].near


@given(st.integers(0, 2**32 - 1))
def test_errors_are_those_counted_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, truth = rng.uniform(0.1, 1, (2, 3, 4, 4)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.3] = 0
    truth[0, 0, 0] = 0.5
    found = compared(torch.from_numpy(said), torch.from_numpy(truth))
    pairs = [(float(a), float(b)) for a, b in zip(said.flat, truth.flat, strict=True) if b > 0]
    assert found.near == pytest.approx(np.mean([max(a / b, b / a) < 1.25 for a, b in pairs]))
    assert found.rmse == pytest.approx(np.sqrt(np.mean([(a - b) ** 2 for a, b in pairs])), rel=1e-5)


def test_the_order_of_pixels_is_right_whatever_the_scale_and_wrong_where_it_is_turned() -> None:
    _, depths = drawn(5, 0)
    assert compared(depths * 3 + 1, depths).order == 1.0
    assert compared(2 - depths, depths).order == 0.0
    assert compared(torch.ones_like(depths), depths).order == 0.0  # one depth for all says nothing


def test_a_depth_counts_as_the_nearest_step_and_an_unknown_one_as_none() -> None:
    steps = torch.linspace(0.2, 1.0, 5)
    found = nearest_step(torch.tensor([[[0.0, 0.2], [0.49, 5.0]]]), steps)
    assert found.tolist() == [[[255, 0], [1, 4]]]
