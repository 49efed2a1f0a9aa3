"""Recipes as they stand in YAML files: on top of their bases, with the recipes that they name in them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dinov2lab.spec.document import Item, SpecError, nearest_file, read_document
from dinov2lab.spec.fields import Location, complain
from dinov2lab.spec.overrides import leaves, put
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.section import Section

Model = TypeVar("Model", bound=Section)


def recipe_tree(path: Path, chain: tuple[Path, ...] = ()) -> Item:
    """The tree of a recipe on top of its bases, with the recipes that it names in it."""
    if path.resolve() in [each.resolve() for each in chain]:
        raise SpecError(f"{chain[-1]}: goes round in a circle: {' -> '.join(map(str, (*chain, path)))}")
    own, chain = dict(mapping(read_document(path))), (*chain, path)
    base, description = own.pop("base", None), own.pop("description", None)
    if description and not isinstance(description.value, str):
        raise SpecError(f"{description.where}: description: is no text")
    under = recipe_tree(reference(base, "base"), chain) if base else Item({}, str(path), path.parent)
    return resolved(put(replace(under, where=str(path)), leaves(own)), chain)


def mapping(item: Item) -> dict[str, Item]:
    assert isinstance(item.value, dict)
    return item.value


def reference(item: Item, name: str) -> Path:
    if not isinstance(item.value, str):
        raise SpecError(f"{item.where}: {name}: is no path of a YAML file")
    path = item.folder / item.value
    if not path.is_file():
        raise SpecError(f"{item.where}: {name}: there is no file {path}{nearest_file(path)}")
    return path


def resolved(tree: Item, chain: tuple[Path, ...] = ()) -> Item:
    """`tree` with the recipe itself where an embedder names the path of one."""
    if isinstance(tree.value, list):
        return replace(tree, value=[resolved(each, chain) for each in tree.value])
    if not isinstance(tree.value, dict):
        return tree
    entries = {key: resolved(each, chain) for key, each in tree.value.items()}
    if "kind" in entries and entries["kind"].value == "run" and isinstance(entries.get("run", tree).value, str):
        recipe = recipe_tree(reference(entries["run"], "run"), chain)
        spec_of(recipe)  # its own mistakes are told in its own terms
        entries["run"] = recipe
    return replace(tree, value=entries)


def spec_of(tree: Item, above: Location = ()) -> RunSpec:
    return validated(RunSpec, tree.plain(), tree, above)


def validated(model: type[Model], value: Any, tree: Item, above: Location = ()) -> Model:
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise complain(error.errors(include_url=False), tree, model, above) from None
