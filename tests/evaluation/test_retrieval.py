"""Mean average precision against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from dinov2lab.evaluation.retrieval import mean_average_precision


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 30), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_it_is_scikit_learns_average_precision(gallery, queries, seed):
    rng = np.random.default_rng(seed)
    rows, asked = (torch.from_numpy(rng.normal(size=(count, 5))).float() for count in (gallery, queries))
    labels, truth = rng.integers(0, 3, gallery), rng.integers(0, 3, queries)
    similarity = torch.nn.functional.cosine_similarity(asked[:, None], rows[None], dim=-1).numpy()
    expected = [
        average_precision_score(labels == truth[query], similarity[query])
        for query in range(queries)
        if (labels == truth[query]).any()
    ]
    if expected:
        found = mean_average_precision(rows, torch.from_numpy(labels), asked, torch.from_numpy(truth))
        assert found == pytest.approx(np.mean(expected), abs=1e-5)


def test_by_hand():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]])
    labels = torch.tensor([0, 1, 0, 1])
    query = torch.tensor([[1.0, 0.0]])  # finds rows 0, 1, 3, 2: of class 0 at ranks 1 and 4
    assert mean_average_precision(gallery, labels, query, torch.tensor([0])) == pytest.approx((1 / 1 + 2 / 4) / 2)


def test_a_query_of_a_class_that_is_not_there_is_left_out():
    gallery, labels = torch.eye(2), torch.tensor([0, 1])
    both = torch.eye(2)
    assert mean_average_precision(gallery, labels, both, torch.tensor([0, 7])) == 1.0
    with pytest.raises(ValueError, match="no query has an image of its class"):
        mean_average_precision(gallery, labels, both, torch.tensor([7, 7]))


def test_it_does_not_depend_on_how_many_queries_are_ranked_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    gallery, queries = torch.randn(50, 4, generator=generator), torch.randn(20, 4, generator=generator)
    labels, truth = torch.arange(50) % 3, torch.arange(20) % 3
    whole = mean_average_precision(gallery, labels, queries, truth)
    monkeypatch.setattr("dinov2lab.evaluation.retrieval._ROWS", 3)
    assert mean_average_precision(gallery, labels, queries, truth) == pytest.approx(whole, abs=1e-7)
