"""Work that is done image by image, in parts that processes share: together they leave what one of them would."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Pending(Exception):
    """Parts are missing that other processes are to do. One line."""


class Cut(NamedTuple):
    parts: int = 1
    mine: int | None = None  # the part that this process does; without a number, all of them

    def ranges(self, total: int, unit: int = 1) -> list[range]:
        """One for each part, whole units but for the last; some may be empty."""
        units = -(-total // unit)
        bounds = [min(units * part // self.parts * unit, total) for part in range(self.parts + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(bounds)]

    def do(
        self, what: str, ranges: Sequence[range], there: Callable[[range], bool], work: Callable[[range], object]
    ) -> list[range]:
        """This process's part; returns all that are not empty. Raises Pending while some are not there."""
        full = [(number, part) for number, part in enumerate(ranges) if part]
        for number, part in full:
            if self.mine in (None, number) and not there(part):
                work(part)
        if missing := sum(not there(part) for _, part in full):
            raise Pending(f"{what}: {missing} of {len(full)} parts are still to come")
        return [part for _, part in full]
