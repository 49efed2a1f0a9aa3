"""Instance retrieval by the revisited Oxford and Paris protocol (Radenovic et al. 2018, arXiv 1803.11285).

In each setup some of the gallery are relevant and some are junk, which is taken out of the ranking before it is judged:

    easy     easy ones are relevant; hard ones are junk too
    medium   easy and hard ones are relevant
    hard     hard ones are relevant; easy ones are junk too
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2lab.data.revisited import Truth

SETUPS = ("easy", "medium", "hard")


def revisited_maps(gallery: Tensor, queries: Tensor, truths: Sequence[Truth]) -> dict[str, float]:
    """Mean average precision of `gallery` (M, D) ranked by cosine similarity to each of `queries` (Q, D), for each setup.

    A query of which nothing is relevant in a setup does not count there; a setup without any is left out.
    """
    similarity = F.normalize(queries.float(), dim=-1) @ F.normalize(gallery.float(), dim=-1).T
    orders = similarity.argsort(dim=1, descending=True, stable=True)  # (Q, M)
    found: dict[str, list[float]] = {}
    for order, truth in zip(orders, truths, strict=True):
        for setup in SETUPS:
            relevant, junk = parted(truth, setup)
            if relevant:
                found.setdefault(setup, []).append(_average_precision(order, relevant, junk))
    return {setup: sum(values) / len(values) for setup, values in found.items()}


def parted(truth: Truth, setup: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(what is relevant, what is junk)."""
    match setup:
        case "easy":
            return truth.easy, (*truth.junk, *truth.hard)
        case "hard":
            return truth.hard, (*truth.junk, *truth.easy)
    return (*truth.easy, *truth.hard), truth.junk


def _average_precision(order: Tensor, relevant: tuple[int, ...], junk: tuple[int, ...]) -> float:
    """The area below precision against recall, by trapezia, as Oxford's own program has it."""
    judged = order[~torch.isin(order, torch.tensor(junk, dtype=order.dtype))]
    ranks = torch.isin(judged, torch.tensor(relevant)).nonzero().flatten().double()  # from 0
    count = torch.arange(len(ranks), dtype=torch.float64)
    before = torch.where(ranks == 0, 1.0, count / ranks.clamp(min=1))
    after = (count + 1) / (ranks + 1)
    return float((before + after).sum() / 2 / len(relevant))
