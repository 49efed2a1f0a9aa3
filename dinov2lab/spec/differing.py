"""Where two specs differ, field by field."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from dinov2lab.spec.section import Section

NOTHING = "-"  # where one of both has no such field: another member of a union, a shorter list


class Difference(NamedTuple):
    field: str  # dotted
    first: Any
    second: Any


def differences(first: Section, second: Section) -> list[Difference]:
    """The fields whose values differ, in the order of the spec; a section that one lacks is one field."""
    return list(_differing("", first.model_dump(mode="json"), second.model_dump(mode="json")))


def _differing(name: str, first: Any, second: Any) -> Iterator[Difference]:
    if first == second:
        return
    one, other = _parts(first), _parts(second)
    if not (one and other):
        yield Difference(name, first, second)
        return
    for key in {**one, **other}:
        yield from _differing(f"{name}.{key}".lstrip("."), one.get(key, NOTHING), other.get(key, NOTHING))


def _parts(value: Any) -> dict[str, Any]:
    """What a value is made of, by name or number; nothing of what is compared as one, such as a pair of numbers."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return {str(place): each for place, each in enumerate(value)}
    return {}
