"""Searches from YAML files and --set overrides. Whatever is wrong is a SpecError that names its place."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import create_model

from dinov2lab.spec.document import Item, SpecError, read_document
from dinov2lab.spec.fields import is_field, suggestion
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.overrides import Override, put, refuse_unchanged, sets
from dinov2lab.spec.points import base_point, corners, reason_of, spec_at, value_in
from dinov2lab.spec.recipes import mapping, recipe_tree, reference, resolved, spec_of, validated
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.search import KINDS, SearchSpec, search_id
from dinov2lab.spec.section import Section

_OWN: dict[str, Any] = {
    name: (field.annotation, field) for name, field in SearchSpec.model_fields.items() if name not in ("name", "base")
}
search_file: type[Section] = create_model("SearchFile", __base__=Section, **{**_OWN, "base": (str, ...)})
_MEASURE = "evaluation"  # what trials are measured by is the same for all of them


def load_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchSpec:
    """The SearchSpec in a YAML file, named after it; overrides that make it another search give it another name.

    Overrides of a search's own keys go to the search (`budget.trials=50`), all others to its base. Raises SpecError.
    """
    before, changes = _search(Path(path), [], []), sets(overrides)
    if not changes:
        return before
    own = [each for each in changes if each.path[0] in _OWN]
    after = _search(Path(path), own, [each for each in changes if each not in own])
    for each in changes:
        refuse_unchanged(
            before if each in own else before.base, after if each in own else after.base, each, ".".join(each.path)
        )
    if search_id(after) == search_id(before):
        return after
    content = {".".join(each.path): each.item.plain() for each in changes}
    return after.model_copy(update={"name": f"{after.name}-{content_id(content)[:6]}"})


def load_for(path: Path, base: RunSpec) -> SearchSpec:
    """The search in a YAML file, of `base` in place of its own. Raises SpecError."""
    return _of_base(path, _tree(path, []), base)


def _search(path: Path, own: Sequence[Override], of_base: Sequence[Override]) -> SearchSpec:
    tree = _tree(path, own)
    base = recipe_tree(reference(mapping(tree)["base"], "base"))
    return _of_base(path, tree, spec_of(resolved(put(base, of_base))))


def _tree(path: Path, own: Sequence[Override]) -> Item:
    tree = _in_full(put(_in_full(read_document(path)), own))
    validated(search_file, tree.plain(), tree)
    return tree


def _of_base(path: Path, tree: Item, base: RunSpec) -> SearchSpec:
    entries = mapping(tree)
    for key, item in mapping(entries["space"]).items():
        _refuse_field(key, item, base, list(mapping(entries["space"])))
    plain = tree.plain() | {"name": path.stem, "base": base.model_dump(mode="json")}
    search = validated(SearchSpec, plain, replace(tree, value=entries))
    _check_points(search, entries)
    return search


def _in_full(tree: Item) -> Item:
    """The short forms written out: `sampler: tpe`, `pruner: asha`, and fields of the space under their sections."""
    entries = dict(mapping(tree))
    for name in ("sampler", "pruner"):
        if name in entries and isinstance(entries[name].value, str):
            entries[name] = replace(entries[name], value={"kind": entries[name]})
    if "space" in entries and isinstance(entries["space"].value, dict):
        entries["space"] = replace(entries["space"], value=_dotted(mapping(entries["space"])))
    return replace(tree, value=entries)


def _dotted(entries: dict[str, Item], above: str = "") -> dict[str, Item]:
    found = dict[str, Item]()
    for key, item in entries.items():
        inner = item.value if isinstance(item.value, dict) else {}
        nested = (
            inner and not inner.keys() & set(KINDS) and all(isinstance(each.value, dict) for each in inner.values())
        )
        for name, each in (_dotted(inner, f"{above}{key}.") if nested else {above + key: item}).items():
            if name in found:
                raise SpecError(f"{each.where}: space.{name}: stands twice")
            found[name] = each
    return found


def _refuse_field(key: str, item: Item, base: RunSpec, keys: list[str]) -> None:
    """Each key is a field that the base has; what a condition names stands before it."""
    path, where = key.split("."), f"{item.where}: space.{key}:"
    if not is_field(RunSpec, path):
        raise SpecError(f"{where} no such field{suggestion(RunSpec, path)}")
    if path[0] in ("seed", "replicate", _MEASURE):
        raise SpecError(
            f"{where} is not to be searched: {'it is how trials are compared' if path[0] == _MEASURE else 'it is chance'}"
        )
    try:
        value_in(base.model_dump(mode="json"), key)
    except KeyError:
        raise SpecError(f"{where} the base has no such field to vary") from None
    for name in item.plain().get("when", {}):
        if name not in keys[: keys.index(key)]:
            near = did_you_mean(name, keys[: keys.index(key)])
            raise SpecError(f"{where} when: {name} is no field of the space that stands before it{near}")


def _check_points(search: SearchSpec, entries: dict[str, Item]) -> None:
    """Every extreme of the space is a recipe, and every point to try first lies inside."""
    space = mapping(entries["space"])
    for key, dimension in search.space.items():
        for name, wanted in dimension.when.items():
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if not search.space[name].holds(value):
                    raise SpecError(f"{space[key].where}: space.{key}: when: {name} is never {value!r}")
    for key, value, point in corners(search):
        try:
            spec_at(search, point)
        except ValueError as error:
            raise SpecError(f"{space[key].where}: space.{key}: at {value!r}: {reason_of(error)}") from None
    for place, given in enumerate(search.enqueue):
        where = f"{entries['enqueue'].where}: enqueue.{place}"
        try:
            point = base_point(search) if given == "base" else given
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None
        for key, value in point.items():
            if key not in search.space:
                raise SpecError(f"{where}.{key}: is no field of the space{did_you_mean(key, list(search.space))}")
            if not search.space[key].holds(value):
                raise SpecError(f"{where}.{key}: {value!r} lies outside the space")
