"""The nearest right name for a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(unknown: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean X?` with the nearest of `known`, or nothing where none is as near as `cutoff`, from 0 to 1."""
    near = get_close_matches(unknown, list(known), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""
