"""Overrides: values for single fields, from a file on top of its base, from an arm, or from --set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dinov2lab.spec.document import Item, SpecError, parse

TAGS = ("kind", "stage")  # say which member of a union a mapping is


class Override(NamedTuple):
    path: tuple[str, ...]
    item: Item


def leaves(entries: Mapping[str, Item], above: tuple[str, ...] = ()) -> list[Override]:
    """The values in nested mappings, keys with dots taken apart. Raises SpecError where two are for one field."""
    found = _leaves(entries, above)
    inner = {each.path[:length] for each in found for length in range(1, len(each.path))}
    seen = set[tuple[str, ...]]()
    for each in found:
        if each.path in inner | seen:
            raise SpecError(f"{each.item.where}: {'.'.join(each.path)}: stands twice")
        seen.add(each.path)
    return found


def _leaves(entries: Mapping[str, Item], above: tuple[str, ...]) -> list[Override]:
    found = list[Override]()
    for key, item in entries.items():
        path = (*above, *key.split("."))
        found += _leaves(item.value, path) if isinstance(item.value, dict) and item.value else [Override(path, item)]
    return sorted(
        found, key=lambda each: each.path[-1] not in TAGS
    )  # a tag first: it clears what was of another member


def sets(texts: Sequence[str], flag: str = "--set", example: str = "optim.lr=1e-3") -> list[Override]:
    """What `--set a.b=c` says, the value read as YAML."""
    found = dict[str, Item]()
    for text in texts:
        where = f"{flag} {text}"
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (equals and value and all(key.split("."))):
            raise SpecError(f"{where}: wants KEY=VALUE, such as {example} (null for none)")
        if key in found:
            raise SpecError(f"{where}: {key}: is set twice")
        found[key] = parse(value, where, Path(), lines=False)
    return leaves(found)


def put(tree: Item, overrides: Sequence[Override]) -> Item:
    """`tree` with `overrides` in it: mappings merge, all else is replaced; a number in a path is a list's element."""
    for each in overrides:
        tree = _put(tree, each.path, each)
    return tree


def _put(tree: Item | None, path: tuple[str, ...], override: Override) -> Item:
    if not path:
        merges = tree and isinstance(tree.value, dict) and override.item.value == {}
        return tree if tree and merges else override.item
    head, rest, value = path[0], path[1:], tree.value if tree else None
    if tree and isinstance(value, list) and head.isdecimal() and int(head) < len(value):
        index = int(head)
        return replace(tree, value=[*value[:index], _put(value[index], rest, override), *value[index + 1 :]])
    if head.isdecimal() and not isinstance(value, dict):
        raise SpecError(f"{override.item.where}: {'.'.join(override.path)}: there is no element {head}")
    entries = value if isinstance(value, dict) else {}
    if head in TAGS and head in entries and entries[head].value != override.item.value:
        entries = {}
    changed = {**entries, head: _put(entries.get(head), rest, override)}
    return replace(tree, value=changed) if tree else Item(changed, override.item.where, override.item.folder)


_ABSENT = object()


def value_at(value: Any, path: Sequence[str]) -> Any:
    """The value of the field `path` of a spec; a thing that equals only itself where there is none."""
    for part in path:
        if isinstance(value, tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = getattr(value, part, _ABSENT)
    return value


def changes_anything(before: Any, after: Any, override: Override) -> bool:
    return bool(value_at(before, override.path) != value_at(after, override.path))


def refuse_unchanged(before: Any, after: Any, override: Override, name: str) -> None:
    """Raise SpecError where the field of `override` has one value in both specs."""
    if not changes_anything(before, after, override):
        raise SpecError(f"{override.item.where}: {name}: changes nothing, it is so already")
