"""Weighted kNN against scikit-learn and a loop."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from dinov2lab.evaluation.knn import few_shot_accuracies, knn_accuracies, some_of_each

T = 0.07


def blobs(count: int, seed: int, classes: int = 4, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes, of any length."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    means = np.random.default_rng(0).standard_normal((classes, dim))
    rows = (means[labels] + 0.9 * rng.standard_normal((count, dim))) * rng.uniform(0.1, 10, (count, 1))
    return torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)


def naive(memory, memory_labels, query, k, temperature) -> int:
    cosines = [float(row.double() @ query.double() / row.double().norm() / query.double().norm()) for row in memory]
    votes = [0.0] * (int(memory_labels.max()) + 1)
    for near in sorted(range(len(memory)), key=lambda row: -cosines[row])[:k]:
        votes[int(memory_labels[near])] += np.exp(cosines[near] / temperature)
    return int(np.argmax(votes))


def test_accuracies_agree_with_a_loop():
    (memory, labels), (queries, truth) = blobs(60, 1), blobs(80, 2)
    found = knn_accuracies(memory, labels, queries, truth, [1, 5, 20], T)
    for k, accuracy in found.items():
        hits = [naive(memory, labels, query, k, T) == int(t) for query, t in zip(queries, truth, strict=True)]
        assert accuracy == pytest.approx(np.mean(hits))
    assert len(set(found.values())) > 1
    assert 0.4 < found[5] < 0.95


@pytest.mark.parametrize("k", [1, 10, 100])
def test_accuracies_agree_with_scikit_learn(k):
    (memory, labels), (queries, truth) = blobs(300, 1), blobs(1500, 2)  # queries in more than one go
    votes = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / T))
    expected = votes.fit(memory.numpy(), labels.numpy()).score(queries.numpy(), truth.numpy())
    assert knn_accuracies(memory, labels, queries, truth, [k], T)[k] == pytest.approx(expected, abs=1 / 1500)


def test_several_k_at_once_are_the_same_as_one_by_one():
    (memory, labels), (queries, truth) = blobs(50, 1), blobs(60, 2)
    together = knn_accuracies(memory, labels, queries, truth, [20, 1, 7], T)
    assert together == {k: knn_accuracies(memory, labels, queries, truth, [k], T)[k] for k in (20, 1, 7)}


def test_a_k_beyond_the_memory_takes_all_of_it():
    (memory, labels), (queries, truth) = blobs(30, 1), blobs(40, 2)
    found = knn_accuracies(memory, labels, queries, truth, [30, 200], T)
    assert found[200] == found[30]


def test_a_tiny_temperature_is_the_nearest_neighbour_and_does_not_overflow():
    (memory, labels), (queries, truth) = blobs(50, 1), blobs(60, 2)
    found = knn_accuracies(memory, labels, queries, truth, [1, 20], 1e-4)
    assert found[20] == pytest.approx(found[1], abs=0.04)


def test_a_class_that_only_the_queries_have_is_never_found():
    memory, labels = blobs(20, 1, classes=2)
    assert knn_accuracies(memory, labels, memory, torch.full((20,), 5), [3], T) == {3: 0.0}


# few-shot


def test_a_few_of_each_class_are_drawn_once_each_and_others_by_another_try() -> None:
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 20)
    rows = [some_of_each(labels, 5, attempt) for attempt in range(4)]
    for each in rows:
        assert torch.bincount(labels[each]).tolist() == [5, 3, 5]  # a class that has fewer gives all
        assert len(each.unique()) == len(each)
    assert len({tuple(each.tolist()) for each in rows}) == 4


def test_few_shot_accuracy_is_the_mean_over_tries_of_a_memory_that_was_drawn() -> None:
    (memory, labels), (queries, truth) = blobs(120, 0), blobs(80, 1)
    found = few_shot_accuracies(memory, labels, queries, truth, shots=(2, 10), tries=3, ks=(1, 5), temperature=T)
    for shot in (2, 10):
        for k in (1, 5):
            each = []
            for attempt in range(3):
                rows = some_of_each(labels, shot, attempt)
                few = KNeighborsClassifier(
                    n_neighbors=min(k, len(rows)), metric="cosine", weights=lambda d: np.exp(-d / T)
                ).fit(memory[rows].double().numpy(), labels[rows].numpy())
                each.append(few.score(queries.double().numpy(), truth.numpy()))
            assert found[shot][k] == pytest.approx(np.mean(each), abs=1e-6)
    assert found[10][5] > found[2][5]


def test_accuracy_is_that_of_lightly() -> None:
    from lightly.utils.benchmarking import knn_predict

    (memory, labels), (queries, truth) = blobs(150, 0), blobs(100, 1)
    unit = torch.nn.functional.normalize
    for k in (1, 10, 50):
        theirs = knn_predict(unit(queries, dim=1), unit(memory, dim=1).T, labels, 4, k, T)[:, 0]
        ours = knn_accuracies(memory, labels, queries, truth, [k], T)[k]
        assert ours == pytest.approx(float((theirs == truth).float().mean()), abs=1e-6)
