"""Logistic regression to its optimum, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dinov2lab.evaluation.logistic import fit, logistic_accuracies, scores


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    means = 1.5 * torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    return means[labels] + torch.randn(count, 6, generator=generator), labels


@pytest.mark.parametrize("c", [1e-3, 1.0, 100.0])
def test_what_it_predicts_is_what_scikit_learn_predicts(c: float) -> None:
    (memory, labels), (queries, _) = drawn(160, 0), drawn(50, 1)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(memory.double().numpy(), labels.numpy())
    ours = scores(fit(memory.double(), labels, c), queries.double()).softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(queries.double().numpy()), atol=1e-4)


def test_accuracies_are_those_of_scikit_learn_for_each_penalty_in_any_order() -> None:
    (memory, labels), (queries, truth) = drawn(160, 0), drawn(200, 1)
    mean, deviation = memory.double().mean(0), memory.double().std(0)
    x, asked = (((rows.double() - mean) / deviation).numpy() for rows in (memory, queries))
    cs = (10.0, 1e-3, 0.1)
    found = logistic_accuracies(memory, labels, queries, truth, cs)
    assert list(found) == list(cs)
    for c in cs:
        theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x, labels.numpy())
        assert found[c] == pytest.approx(theirs.score(asked, truth.numpy()))
    assert 0.3 < found[10.0] < 1


def test_where_it_starts_decides_nothing() -> None:
    memory, labels = drawn(120, 0)
    x = memory.double()
    far = torch.randn(7, 4, generator=torch.Generator().manual_seed(3)).double()
    a, b = fit(x, labels, 1.0), fit(x, labels, 1.0, far)
    torch.testing.assert_close(scores(a, x).softmax(1), scores(b, x).softmax(1), atol=1e-5, rtol=0)


def test_more_dimensions_than_images_are_the_same_problem() -> None:
    (memory, labels), (queries, truth) = drawn(40, 0), drawn(200, 1)
    wide = torch.randn(6, 90, generator=torch.Generator().manual_seed(5))
    memory, queries = memory @ wide, queries @ wide
    noise = torch.Generator().manual_seed(6)
    memory, queries = (rows + 3 * torch.randn(rows.shape, generator=noise) for rows in (memory, queries))
    mean, deviation = memory.double().mean(0), memory.double().std(0)
    x, asked = (((rows.double() - mean) / deviation).numpy() for rows in (memory, queries))
    found = logistic_accuracies(memory, labels, queries, truth, (1e-3, 0.1))
    for c, accuracy in found.items():
        theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x, labels.numpy())
        assert accuracy == pytest.approx(theirs.score(asked, truth.numpy()))
    assert 0.3 < found[0.1] < 1
