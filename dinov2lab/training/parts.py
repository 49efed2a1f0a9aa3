"""The step in parts: micro-batches that change nothing but rounding, one after the other or side by side.

A part is a run of whole KoLeo groups of the global crops and a like share of the local ones. All that looks at more than one
crop is drawn or computed for the whole batch before it is cut: masks, what drop path keeps, the teacher's targets.

Where several processes train together, each has the images of its part of the batch, with all of their crops, and cuts these
further. What a process finds is the mean over its crops, so that the mean over the processes is the whole batch's.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2lab import collectives
from dinov2lab.model.blocks import Kept
from dinov2lab.spec.resources import Recompute, Resources

Result = TypeVar("Result")


class Part(NamedTuple):
    number: int = 0
    of: int = 1

    def rows(self, total: int) -> slice:
        """Its share of `total` rows that stand one behind the other."""
        return slice(total * self.number // self.of, total * (self.number + 1) // self.of)

    def crops(self, chosen: NDArray[np.int64], images: int) -> NDArray[np.int64]:
        """Of chosen crops of a batch of `images`, view by view, those of this part's images, numbered as it holds them."""
        if self.of == 1:
            return chosen
        mine = self.rows(images)
        view, image = chosen // images, chosen % images
        inside = (image >= mine.start) & (image < mine.stop)
        numbered: NDArray[np.int64] = (view * (mine.stop - mine.start) + image - mine.start)[inside]
        return numbered


def of_this_process() -> Part:
    return Part(collectives.rank(), collectives.world_size())


class Parts:
    """How the work of a step is cut, and computed: `side_by_side` parts at a time, each on threads of its own."""

    def __init__(self, resources: Resources) -> None:
        self.recompute: Recompute = resources.recompute
        self.side_by_side = resources.side_by_side
        self._parts = [Part(number, resources.parts) for number in range(resources.parts)]
        threads = max(1, resources.threads // self.side_by_side)
        self._pool = ThreadPoolExecutor(self.side_by_side, "part", torch.set_num_threads, (threads,))

    def map(self, compute: Callable[[Part], Result]) -> Iterator[Result]:
        """What `compute` makes of each part, in order."""
        return self._pool.map(compute, self._parts) if self.side_by_side > 1 else map(compute, self._parts)


def kept_of(
    part: Part, kept: Sequence[tuple[Kept, Kept]] | None, sizes: Sequence[int]
) -> list[tuple[Kept, Kept]] | None:
    """Of what drop path keeps of the batch, with `sizes` crops of each size, the share of one part."""
    if kept is None or part.of == 1:
        return None if kept is None else list(kept)

    def share(of: Kept) -> Kept:
        rows = [part.rows(size) for size in sizes]
        crops = tuple(_within(crops, row) for crops, row in zip(of.crops, rows, strict=True) if row.stop > row.start)
        scales = tuple(scale for scale, row in zip(of.scales, rows, strict=True) if row.stop > row.start)
        return Kept(crops, scales)

    return [(share(attention), share(mlp)) for attention, mlp in kept]


def _within(crops: Tensor, rows: slice) -> Tensor:
    inside: Tensor = crops[(crops >= rows.start) & (crops < rows.stop)] - rows.start
    return inside


def accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add to the gradients of `parameters`, as a backward pass would."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient


WHOLE = Parts(Resources())
