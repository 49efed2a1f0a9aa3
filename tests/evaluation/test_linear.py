"""The linear probe against autograd, torch's SGD and scikit-learn."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dinov2lab.draws import Key, permutation
from dinov2lab.evaluation.linear import Kind, linear_accuracies, train_probes


def blobs(count: int, seed: int, spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    means = 3 * torch.randn(3, 5, generator=torch.Generator().manual_seed(99))
    scale = torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0])  # features of very different size
    return (means[labels] + spread * torch.randn(count, 5, generator=generator)) * scale + 7, labels


def by_autograd(memory: Tensor, labels: Tensor, queries: Tensor, lr: float, epochs: int, batch: int) -> Tensor:
    """Predicted classes of a torch.nn.Linear trained by torch.optim.SGD in float64, in the order that the probe takes."""
    mean, deviation = memory.mean(0), memory.std(0)
    x, asked = ((rows - mean) / deviation for rows in (memory, queries))
    probe = nn.Linear(5, 3).double()
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    sgd = torch.optim.SGD(probe.parameters(), lr=lr, momentum=0.9)
    steps = epochs * -(-len(x) // batch)
    step = 0
    for epoch in range(epochs):
        for rows in torch.from_numpy(permutation(Key(0), f"linear/{epoch}", len(x))).split(batch):
            sgd.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            sgd.zero_grad()
            F.cross_entropy(probe(x[rows].double()), labels[rows]).backward()
            sgd.step()
            step += 1
    return probe(asked.double()).argmax(1)


@pytest.mark.parametrize("batch", [10, 64])  # the last batch of 10 is as large as the others, that of 64 smaller
def test_each_probe_is_the_one_that_autograd_and_torchs_sgd_train(batch):
    (memory, labels), (queries, truth) = blobs(100, 0, 4.0), blobs(400, 1, 4.0)
    lrs = (0.003, 0.1, 1.0)
    found = linear_accuracies(memory, labels, queries, truth, lrs=lrs, epochs=3, batch=batch)
    for lr in lrs:
        expected = (by_autograd(memory, labels, queries, lr, 3, batch) == truth).float().mean()
        assert found[lr] == pytest.approx(float(expected), abs=1.5 / 400)
    assert 0.4 < min(found.values()) < max(found.values()) < 0.95


def test_the_weights_are_those_of_autograd():
    x, y = blobs(64, 0, 2.0)
    weights = train_probes(x, F.one_hot(y, 3).float(), (0.1,), 1, 64).weights[0]
    x = (x - x.mean(0)) / x.std(0)
    free = torch.zeros(6, 3, requires_grad=True)
    loss = F.cross_entropy(torch.cat([x, torch.ones(64, 1)], 1) @ free, y)
    torch.testing.assert_close(weights, -0.1 * torch.autograd.grad(loss, free)[0])


def test_accuracy_is_that_of_logistic_regression():
    (memory, labels), (queries, truth) = blobs(300, 0, 2.5), blobs(600, 1, 2.5)
    found = linear_accuracies(memory, labels, queries, truth, lrs=(0.03, 0.3), epochs=30, batch=100)
    mean, deviation = memory.mean(0), memory.std(0)
    expected = LogisticRegression(C=100, max_iter=1000).fit(((memory - mean) / deviation).numpy(), labels.numpy())
    accuracy = expected.score(((queries - mean) / deviation).numpy(), truth.numpy())
    assert 0.6 < accuracy < 0.99
    assert max(found.values()) == pytest.approx(accuracy, abs=0.02)


def test_a_separable_problem_is_solved_and_a_constant_feature_does_no_harm():
    memory, labels = blobs(90, 0, 0.1)
    memory = torch.cat([memory, torch.full((90, 1), 3.0)], 1)
    assert linear_accuracies(memory, labels, memory, labels, lrs=(0.1,), epochs=20, batch=32) == {0.1: 1.0}


def test_the_result_depends_on_nothing_but_its_arguments():
    (memory, labels), (queries, truth) = blobs(80, 0, 4.0), blobs(100, 1, 4.0)
    results = []
    for seed in range(2):
        torch.manual_seed(seed)
        results.append(linear_accuracies(memory, labels, queries, truth, lrs=(0.1, 0.3), epochs=3, batch=32))
    assert results[0] == results[1]


def test_a_kind_of_features_is_the_last_class_tokens_and_where_asked_for_the_mean_patch() -> None:
    blocks = torch.arange(2 * 5 * 3.0).view(2, 5, 3)  # class tokens of four blocks, then the mean
    assert Kind(1, False).of(blocks)[0].tolist() == [9, 10, 11]
    assert Kind(1, True).of(blocks)[0].tolist() == [9, 10, 11, 12, 13, 14]
    assert Kind(4, False).of(blocks)[0].tolist() == list(range(12))
    assert Kind(4, True).of(blocks)[1].tolist() == list(range(15, 30))
