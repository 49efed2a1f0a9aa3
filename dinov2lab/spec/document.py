"""YAML 1.2 with line numbers: a file, or the value of a --set, becomes a tree of `Item`s that know where they stand."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dinov2lab.spec.nearest import did_you_mean

LARGEST_FILE = 1_000_000  # bytes; more is no spec but a checkpoint, an image or a log
LARGEST_TREE = 20_000  # values, aliases counted where they are used
_TAG = "tag:yaml.org,2002:"
_NUMBERS = (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null")
_TEXTS = (_TAG + "str", _TAG + "timestamp", _TAG + "value", _TAG + "merge")  # YAML 1.2 knows the last three no more


class SpecError(ValueError):
    """A user's mistake in a spec: one line each, with the place, the key, what is wrong and the nearest right thing."""


@dataclass(frozen=True)
class Item:
    """A value and where it stands: FILE:LINE of its key, or the whole --set."""

    value: "dict[str, Item] | list[Item] | str | int | float | bool | None"
    where: str
    folder: Path  # that relative paths in it start from

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def nearest_file(path: Path) -> str:
    """`; did you mean X?` for a YAML file that is not there."""
    return did_you_mean(path.name, sorted(file.name for file in path.parent.glob("*.yaml")))


def read_document(path: Path) -> Item:
    """The mapping in a YAML file. Raises SpecError."""
    item = parse(_text(path), str(path), path.parent)
    if item.value is None:
        raise SpecError(f"{path}: is empty")
    if not isinstance(item.value, dict):
        raise SpecError(f"{path}: is no mapping of keys to values")
    return item


@lru_cache(256)  # bases are read for each that stands on them, and YAML is slow; nobody changes an Item
def parse(text: str, where: str, folder: Path, *, lines: bool = True) -> Item:
    """The one YAML value in `text`; without `lines`, everything in it stands at `where`. Raises SpecError."""
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
        return Item(None, where, folder) if root is None else _Tree(yaml, where, folder, lines).item(root, where)
    except SpecError:
        raise
    except RecursionError:
        raise SpecError(f"{where}: is nested too deeply") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if lines and mark else where
        raise SpecError(f"{place}: broken YAML: {error.problem or error.context}") from None
    except Exception as error:  # on hostile text the reader raises AttributeError, ValueError and others
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"{where}: broken YAML: {reason}") from None


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise SpecError(f"{path}: is a folder; a YAML file is wanted")
        if not path.is_file():
            raise SpecError(f"{path}: no such file{nearest_file(path)}")
        if path.stat().st_size > LARGEST_FILE:
            raise SpecError(f"{path}: is too large for a spec ({path.stat().st_size} bytes)")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is no text in UTF-8 (byte {error.start})") from None
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{path}: cannot be read: {reason}") from None


class _Tree:
    """From the reader's nodes to Items, at one place's name."""

    def __init__(self, yaml: YAML, where: str, folder: Path, lines: bool) -> None:
        self.yaml, self.where, self.folder, self.lines = yaml, where, folder, lines
        self.size = 0

    def at(self, node: Node) -> str:
        return f"{self.where}:{node.start_mark.line + 1}" if self.lines else self.where

    def item(self, node: Node, where: str) -> Item:
        self.size += 1
        if self.size > LARGEST_TREE:
            raise SpecError(f"{where}: holds more than {LARGEST_TREE} values")
        if not isinstance(node, ScalarNode) and node.tag not in (_TAG + "map", _TAG + "seq"):
            raise SpecError(f"{where}: the tag {node.tag} has no meaning here")
        if isinstance(node, MappingNode):
            return Item(dict(self.entries(node)), where, self.folder)
        if isinstance(node, SequenceNode):
            return Item([self.item(each, self.at(each)) for each in node.value], where, self.folder)
        return Item(self.scalar(node, where), where, self.folder)

    def entries(self, node: MappingNode) -> Iterator[tuple[str, Item]]:
        seen = dict[str, str]()
        for key, value in node.value:
            where = self.at(key)
            if not isinstance(key, ScalarNode):
                raise SpecError(f"{where}: a key must be a word, not a list or a mapping")
            if key.value in seen:
                raise SpecError(f"{where}: {key.value}: stands twice (first at {seen[key.value]})")
            seen[key.value] = where
            yield key.value, self.item(value, where)

    def scalar(self, node: Node, where: str) -> str | int | float | bool | None:
        if node.tag in _TEXTS:
            if any("\ud800" <= character <= "\udfff" for character in node.value):
                raise SpecError(f"{where}: holds half of a character (a lone surrogate)")
            return str(node.value)
        if node.tag not in _NUMBERS:
            raise SpecError(f"{where}: the tag {node.tag} has no meaning here")
        value: int | float | bool | None = self.yaml.constructor.construct_object(node)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise SpecError(f"{where}: the integer is too large")
        return value
