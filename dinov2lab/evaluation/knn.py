"""Weighted k-nearest-neighbour classification on frozen features (arXiv 1805.01978; dinov2, eval/knn.py)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2lab.draws import Key, permutation

_ROWS = 1024  # queries compared at once


def knn_accuracies(
    memory: Tensor, memory_labels: Tensor, queries: Tensor, labels: Tensor, ks: Sequence[int], temperature: float
) -> dict[int, float]:
    """Share of `queries` (Q, D) whose class wins the vote of their k nearest in `memory` (M, D), for each k.

    A neighbour of cosine similarity s votes with exp(s / temperature). A k beyond the memory takes all of it.
    """
    classes = int(max(memory_labels.max(), labels.max())) + 1
    memory, queries = F.normalize(memory.float(), dim=-1), F.normalize(queries.float(), dim=-1)
    largest = min(max(ks), len(memory))
    correct = dict.fromkeys(ks, 0)
    for rows, truth in zip(queries.split(_ROWS), labels.split(_ROWS), strict=True):
        similarity, index = (rows @ memory.T).topk(largest, dim=-1)  # (rows, k)
        # Relative to the nearest: the same winner, and nothing overflows at small temperatures.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        winners = memory_labels[index]
        for k in ks:
            tally = torch.zeros(len(rows), classes).scatter_add_(1, winners[:, :k], votes[:, :k])
            correct[k] += int((tally.argmax(1) == truth).sum())
    return {k: hits / len(queries) for k, hits in correct.items()}


def few_shot_accuracies(
    memory: Tensor,
    memory_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    shots: Sequence[int],
    tries: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, dict[int, float]]:
    """For each of `shots` and each k, the mean accuracy over `tries` memories of so many images of each class.

    A class that has fewer gives all of them. What is drawn depends on the labels alone.
    """
    found = {}
    for shot in shots:
        each = [
            knn_accuracies(memory[rows], memory_labels[rows], queries, labels, ks, temperature)
            for rows in (some_of_each(memory_labels, shot, attempt) for attempt in range(tries))
        ]
        found[shot] = {k: sum(accuracies[k] for accuracies in each) / tries for k in ks}
    return found


def some_of_each(labels: Tensor, count: int, attempt: int) -> Tensor:
    """Which rows: at most `count` of each class, in their order; of another `attempt`, others."""
    order = torch.from_numpy(permutation(Key(0), f"shots/{attempt}", len(labels)))
    rows = [order[labels[order] == label][:count] for label in labels.unique()]
    return torch.cat(rows).sort().values
