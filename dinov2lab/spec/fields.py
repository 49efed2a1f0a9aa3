"""The names of a spec's fields, and pydantic's errors in words: the place, the key, the nearest right name."""

import difflib
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from dinov2lab.spec.document import Item, SpecError
from dinov2lab.spec.nearest import did_you_mean

MOST_COMPLAINTS = 5
Location = tuple[str | int, ...]


def dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _forms(annotation: Any) -> list[Any]:
    """What a value may be: Annotated is unwrapped, and a union is all of its members."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _forms(arguments[0])
    if origin in (Union, UnionType):
        return [form for argument in arguments for form in _forms(argument)]
    return [annotation]


def _models(forms: list[Any]) -> list[type[BaseModel]]:
    return [form for form in forms if isinstance(form, type) and issubclass(form, BaseModel)]


def _tag(model: type[BaseModel]) -> str:
    """The word by which a union knows `model`."""
    annotations = (field.annotation for field in model.model_fields.values())
    return next((str(get_args(each)[0]) for each in annotations if get_origin(each) is Literal), "")


def _inside(forms: list[Any], part: str | int) -> list[Any]:
    """The forms of the field or element `part` of a value of `forms`."""
    found: list[Any] = []
    for form in forms:
        if get_origin(form) is tuple and str(part).isdigit():
            found += _forms(get_args(form)[0])
        elif get_origin(form) is dict:
            found += _forms(get_args(form)[1])
        elif form in _models([form]) and part in form.model_fields:
            found += _forms(form.model_fields[part].annotation)
    return found


def is_field(model: type[BaseModel], path: Sequence[str | int]) -> bool:
    """Whether some value of `model` has the field `path`, whichever member of a union it takes."""
    forms: list[Any] = [model]
    for part in path:
        forms = _inside(forms, part)
    return bool(forms)


def names(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted names of all fields of `model`, those inside lists and tagged unions left out."""
    for name, field in model.model_fields.items():
        yield above + name
        models = _models(_forms(field.annotation))
        if len(models) == 1 and "kind" not in models[0].model_fields:
            yield from names(models[0], f"{above}{name}.")


def suggestion(model: type[BaseModel], path: Sequence[str | int]) -> str:
    """What to write for the unknown field `path`: a neighbour, else the same word elsewhere, else what there is."""
    forms: list[Any] = [model]
    for part in path[:-1]:
        forms = _inside(forms, part)
    neighbours = sorted({name for each in _models(forms) for name in each.model_fields})
    word = str(path[-1])
    if near := difflib.get_close_matches(word, neighbours, n=1):
        return f"; did you mean {dotted((*path[:-1], near[0]))}?"
    if elsewhere := _elsewhere(model, word):
        return f"; did you mean {' or '.join(elsewhere)}?"
    return f"; there are {', '.join(neighbours)}" if neighbours else ""


def _elsewhere(model: type[BaseModel], word: str) -> list[str]:
    """Fields of other sections by the name `word`, or by section and name such as teacher_temperature."""
    spelled = dict[str, list[str]]()
    for name in names(model):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            spelled.setdefault("_".join(parts[-length:]), []).append(name)
    near = difflib.get_close_matches(word.replace(".", "_"), spelled, n=1, cutoff=0.75)
    return spelled[near[0]][:3] if near else []


class Place(NamedTuple):
    """Where in a spec an error of pydantic's lies: its location without the tags of unions."""

    path: Location
    forms: list[Any]


def place(model: type[BaseModel], location: Location) -> Place:
    forms: list[Any] = [model]
    path: Location = ()
    for part in location:
        models = _models(forms)
        if len(models) > 1:
            forms = [each for each in models if _tag(each) == part]
        else:
            forms, path = _inside(forms, part), (*path, part)
    return Place(path, forms)


def locate(tree: Item, path: Sequence[str | int]) -> str:
    """Where the value at `path` stands, or the nearest one above it."""
    for part in path:
        if isinstance(tree.value, dict) and str(part) in tree.value:
            tree = tree.value[str(part)]
        elif isinstance(tree.value, list) and str(part).isdigit() and int(part) < len(tree.value):
            tree = tree.value[int(part)]
        else:
            break
    return tree.where


def complain(errors: Sequence[Any], tree: Item, model: type[BaseModel], above: Location = ()) -> SpecError:
    """pydantic's `errors` on `tree` as one SpecError; `above` is where the spec itself lies in its file."""
    lines = list(dict.fromkeys(_line(error, tree, model, above) for error in errors))
    more = [f"... and {len(lines) - MOST_COMPLAINTS} more"] if len(lines) > MOST_COMPLAINTS else []
    return SpecError("\n".join(lines[:MOST_COMPLAINTS] + more))


def _line(error: Any, tree: Item, model: type[BaseModel], above: Location) -> str:
    where = place(model, error["loc"])
    words = _words(error, where, model)
    path = where.path
    if error["type"].startswith("union_tag"):
        path = (*path, error["ctx"]["discriminator"].strip("'"))
    line = locate(tree, path)
    if error["type"] == "value_error":  # of a whole section, and it names the fields that do not fit
        named = (locate(tree, (*path, *word.split("."))) for word in words.split())
        line = next((each for each in named if each != line), line)
    name = dotted((*above, *path))
    text = f"{line}: {name}{': ' if name else ''}{words}"
    return "".join(character if character.isprintable() else "?" for character in text)


def shown(value: Any) -> str:
    """A value in an error's words: short, as YAML would have it."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}...{text[-5:]}"


def _words(error: Any, where: Place, model: type[BaseModel]) -> str:
    value, context = shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return f"no such field{suggestion(model, where.path)}"
        case "too_short" if isinstance(error["input"], dict):
            return "is empty"
        case "too_short" | "too_long":
            return f"the list is {error['type'].replace('_', ' ')}"
        case "missing" if isinstance(where.path[-1], int):
            return "the list is too short"
        case "missing":
            return "missing required key"
        case "int_type" if isinstance(error["input"], float) and error["input"].is_integer():
            return f"{value} is no integer; write {int(error['input'])}"
        case "literal_error":
            choices = [str(word) for form in where.forms for word in get_args(form) if get_origin(form) is Literal]
            return f"{value} is none of {', '.join(choices)}{did_you_mean(str(error['input']), choices)}"
        case "union_tag_invalid":
            choices = [_tag(each) for each in _models(where.forms)]
            return f"{context['tag']!r} is none of {', '.join(choices)}{did_you_mean(context['tag'], choices)}"
        case "union_tag_not_found":
            return f"missing required key; one of {', '.join(_tag(each) for each in _models(where.forms))}"
        case "value_error":
            return str(context["error"])
        case "string_pattern_mismatch":
            dot = ", and begin with no dot" if str(error["input"]).startswith(".") else ""
            return f"{value} may hold only letters, digits and _ . + = -{dot}"
        case kind if kind in _WANTED:
            return f"{value} is no {_WANTED[kind]}"
        case kind if kind in _BOUNDS:
            return f"{value} is out of range: it must be {_BOUNDS[kind]} {next(iter(context.values())):g}"
    return f"{value}: {error['msg'][:1].lower()}{error['msg'][1:]}"


_WANTED = {
    "int_type": "integer",
    "float_type": "number",
    "string_type": "text",
    "bool_type": "choice of true and false",
    "tuple_type": "list",
    "dict_type": "mapping",
    "model_type": "mapping",
    "model_attributes_type": "mapping",
    "finite_number": "finite number",
}
_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
}
