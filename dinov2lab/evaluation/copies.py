"""Copy detection on frozen features: does the most similar image tell that one is a copy of it?

As in the image similarity challenge (Douze et al. 2021, arXiv 2106.09672): pairs of a query and a reference are ranked by
similarity over all queries at once, so that a query that is no copy of anything costs precision where it looks like one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CANDIDATES = 10  # of each query: all others rank as never found
_ROWS = 1024  # queries compared at once


class Found(NamedTuple):
    micro_ap: float  # average precision of all pairs in one ranking
    recall: float  # share of the copies whose original is the most similar image


def copies_found(gallery: Tensor, queries: Tensor, originals: Tensor) -> Found:
    """`originals`: (Q,) for each of `queries` (Q, D) which row of `gallery` (M, D) it is a copy of, -1 for none.

    Raises ValueError where no query is a copy.
    """
    copied = int((originals >= 0).sum())
    if not copied:
        raise ValueError("copies: no query is a copy of an image of the memory")
    similarity, index = nearest(gallery, queries)
    right = index == originals[:, None]
    order = similarity.flatten().argsort(descending=True, stable=True)
    hits = right.flatten()[order].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return Found(float((precision * hits).sum() / copied), float(right[:, 0].sum() / copied))


def nearest(gallery: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, k) cosine similarities and rows of the gallery, the most similar first."""
    gallery, queries = F.normalize(gallery.float(), dim=-1), F.normalize(queries.float(), dim=-1)
    parts = [(rows @ gallery.T).topk(min(CANDIDATES, len(gallery)), dim=-1) for rows in queries.split(_ROWS)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
