"""Retrieval on frozen features: mean average precision of a gallery ranked by cosine similarity to each query.

As for revisited Oxford and Paris (arXiv 1803.11285), with the classes as what is relevant: KoLeo's gain shows here (DINOv2,
Table 3). It asks of the whole ranking what kNN asks of its first few.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 256  # queries ranked at once


def mean_average_precision(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Over `queries` (Q, D) of which `gallery` (M, D) holds at least one image of the class.

    Average precision is the mean, over the relevant images, of the precision at their ranks. Equal similarities rank in the
    order of the gallery. Raises ValueError where no query has anything relevant.
    """
    gallery, queries = F.normalize(gallery.float(), dim=-1), F.normalize(queries.float(), dim=-1)
    ranks = torch.arange(1, len(gallery) + 1)
    found = []
    for rows, truth in zip(queries.split(_ROWS), labels.split(_ROWS), strict=True):
        order = (rows @ gallery.T).argsort(dim=1, descending=True, stable=True)  # (rows, M)
        relevant = gallery_labels[order] == truth[:, None]
        precision = relevant.cumsum(1) / ranks
        total = relevant.sum(1)
        found.append(((precision * relevant).sum(1) / total)[total > 0])
    averages = torch.cat(found)
    if not len(averages):
        raise ValueError("retrieval: no query has an image of its class in the gallery")
    return float(averages.mean())
