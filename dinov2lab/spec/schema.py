"""JSON Schema of the files that people write, made from the sections themselves: for editors that complete and check.

What it refuses, the loader refuses; the loader refuses more, such as an override that changes nothing. Two things a file may
do that its sections do not know: it may lie on top of a base, so that nothing must be there; and a key may have dots in it.
"""

from collections.abc import Iterator
from typing import Any, Literal

from dinov2lab.spec.load import study_file
from dinov2lab.spec.load_search import search_file
from dinov2lab.spec.resources import Slurm
from dinov2lab.spec.run import RunSpec

FileKind = Literal["recipe", "study", "search", "profile"]
Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
RECIPE = {"$ref": "#/$defs/RunSpec"}
TEXT = {"type": "string"}
ELEMENT = r"^[\w.]+\.[0-9]+(\.[\w.]+)?$"  # an element of a list, or a field of one: what is in it is left to the loader


def schema_of(kind: FileKind) -> Schema:
    """The JSON Schema of a file of that kind."""
    match kind:
        case "recipe":
            made = _recipes()
            own = made["$defs"]["RunSpec"]
            told = own | {"properties": {"base": TEXT, "description": TEXT} | own["properties"]}
            made = {**told, "$defs": made["$defs"]}
        case "study":
            made = _study()
        case "search":
            made = _search()
        case "profile":
            made = _tidy(Slurm.model_json_schema())
    return {"$schema": DIALECT, "title": f"dinov2lab: a {kind}", **made}


def _recipes() -> Schema:
    """{"$defs": ...}: RunSpec and all that is in it, as overrides may say it."""
    made = _tidy(RunSpec.model_json_schema())
    plain = made["$defs"]
    return {"$defs": {name: _overridable(section, plain) for name, section in plain.items()}}


def _study() -> Schema:
    recipes = _recipes()["$defs"]
    made: Schema = _tidy(study_file.model_json_schema())
    keys = made["properties"]
    keys["factor"] = {"anyOf": [TEXT, keys["factor"]]}
    keys["arms"]["additionalProperties"] = RECIPE
    keys["profiles"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Profile"}}
    scale = {"type": "object", "properties": {**keys}, "additionalProperties": False}
    return {**made, "$defs": {**recipes, **made.get("$defs", {}), "Profile": scale}}


def _search() -> Schema:
    recipes = _recipes()["$defs"]
    made: Schema = _tidy(search_file.model_json_schema())
    keys, dimension = made["properties"], {"$ref": "#/$defs/Dimension"}
    for name in ("sampler", "pruner"):
        kinds = made["$defs"][name.capitalize()]["properties"]["kind"]
        keys[name] = {"anyOf": [kinds, keys[name]]}
    fields = recipes["RunSpec"]["properties"].items()
    keys["space"] |= {
        "properties": {key: {"type": "object"} if any(_sections_in(value)) else dimension for key, value in fields},
        "patternProperties": {ELEMENT: dimension},
        "additionalProperties": False,
    }
    return made


def _overridable(section: Schema, sections: Schema) -> Schema:
    """A section of which any part may be left out, with a key for each field below it. An element of a list is whole."""
    if "properties" not in section:
        return section
    below = dict(_below(section, sections, ()))
    made = {**section, "properties": section["properties"] | below}
    if any(_is_list(value) for value in made["properties"].values()):
        made["patternProperties"] = {ELEMENT: {}}
    if "stage" not in section.get("required", ()):
        made.pop("required", None)
    return made


def _below(section: Schema, sections: Schema, seen: tuple[str, ...], above: str = "") -> Iterator[tuple[str, Schema]]:
    """(a.b.c, its schema) of all fields in the sections inside of one; a recipe inside of a recipe is not gone into."""
    for key, value in section["properties"].items():
        if above:
            yield f"{above}{key}", value
        for name in _sections_in(value):
            if name not in (*seen, "RunSpec") and "properties" in sections[name]:
                yield from _below(sections[name], sections, (*seen, name), f"{above}{key}.")


def _sections_in(value: Schema) -> Iterator[str]:
    """The sections that a value may be, not those that its elements are."""
    for each in (value, *value.get("anyOf", ())):
        if "$ref" in each:
            yield each["$ref"].rpartition("/")[2]
        elif each is not value:
            yield from _sections_in(each)


def _is_list(value: Schema) -> bool:
    return any(each.get("type") == "array" for each in (value, *value.get("anyOf", ())))


def _tidy(value: Any) -> Any:
    """Without what says nothing to an editor; one of several is any of them; where a recipe is wanted, its path may stand."""
    if isinstance(value, list):
        return [_tidy(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: each for key, each in value.items() if key not in ("discriminator", "absent")}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    if "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")
    return {key: _with_path(each) if key == "run" and each == RECIPE else _tidy(each) for key, each in kept.items()}


def _with_path(recipe: Schema) -> Schema:
    return {"anyOf": [TEXT, recipe]}
