"""Copy detection against a ranking written out, and against scikit-learn's average precision."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from dinov2lab.evaluation.copies import CANDIDATES, copies_found


def drawn(queries: int, gallery: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(gallery, queries, originals): every other query is a noisy copy."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.randn(gallery, 5, generator=generator)
    originals = torch.randint(gallery, (queries,), generator=generator)
    copied = there[originals] + 0.8 * torch.randn(queries, 5, generator=generator)
    originals[1::2] = -1
    copied[1::2] = torch.randn(len(originals[1::2]), 5, generator=generator)
    return there, copied, originals


def test_micro_average_precision_is_that_of_one_ranking_of_all_pairs() -> None:
    gallery, queries, originals = drawn(40, CANDIDATES, 0)  # of a small gallery every pair is a candidate
    unit = [torch.nn.functional.normalize(rows, dim=1).numpy() for rows in (queries, gallery)]
    pairs = [(float(unit[0][q] @ unit[1][g]), int(originals[q]) == g) for q in range(40) for g in range(CANDIDATES)]
    pairs.sort(key=lambda pair: -pair[0])
    hits, total = 0, 0.0
    for rank, (_, right) in enumerate(pairs, 1):
        hits += right
        total += right * hits / rank
    found = copies_found(gallery, queries, originals)
    assert found.micro_ap == pytest.approx(total / 20)
    truth, similarity = np.array([right for _, right in pairs]), np.array([score for score, _ in pairs])
    assert found.micro_ap == pytest.approx(average_precision_score(truth, similarity), abs=1e-6)
    nearest = [int((unit[1] @ unit[0][q]).argmax()) == int(originals[q]) for q in range(0, 40, 2)]
    assert found.recall == pytest.approx(np.mean(nearest))
    assert 0.1 < found.micro_ap < 0.95


def test_copies_that_are_the_originals_are_all_found_and_strangers_cost() -> None:
    gallery = torch.eye(8)
    assert copies_found(gallery, gallery, torch.arange(8)) == (1.0, 1.0)
    strangers = torch.cat([gallery[4:], gallery[:4]])  # they look exactly like what they are no copy of, and come first
    originals = torch.cat([torch.full((4,), -1), torch.arange(4)])
    found = copies_found(gallery, strangers, originals)
    assert found.recall == 1.0
    assert found.micro_ap < 0.6


def test_without_a_copy_there_is_nothing_to_find() -> None:
    with pytest.raises(ValueError, match="no query is a copy"):
        copies_found(torch.eye(3), torch.eye(3), torch.full((3,), -1))
