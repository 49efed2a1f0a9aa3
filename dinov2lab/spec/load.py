"""Recipes and studies from YAML files and --set overrides. Whatever is wrong is a SpecError that names its place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import create_model

from dinov2lab.spec.document import Item, SpecError, nearest_file, read_document
from dinov2lab.spec.fields import is_field, locate, suggestion
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.load_tune import TuneFile, refuse_untunable, tune_of
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.overrides import TAGS, Override, changes_anything, leaves, put, refuse_unchanged, sets
from dinov2lab.spec.recipes import mapping, recipe_tree, reference, resolved, spec_of, validated
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.scale import OWN, at_scale
from dinov2lab.spec.section import Section
from dinov2lab.spec.study import Study, expand

__all__ = ["SpecError", "find", "headline", "kind_of", "load_recipe", "load_study"]

Kind = Literal["study", "recipe", "search"]
FOLDERS: dict[Kind, Path] = {"study": Path("ablations"), "recipe": Path("experiments"), "search": Path("experiments")}
_NOT_IN_FILES = ("name", "looked")
_OWN: dict[str, Any] = {
    name: (field.annotation, field) for name, field in Study.model_fields.items() if name not in _NOT_IN_FILES
}
study_file: type[Section] = create_model(
    "StudyFile",
    __base__=Section,
    **{**_OWN, "base": (str, ...), "arms": (dict[str, dict[str, Any]], ...), "tune": (TuneFile | None, None)},
)


def find(name: str, kind: Kind | None = None) -> Path:
    """The YAML file of that path, or of that bare name in ./ablations (studies) or ./experiments (recipes, searches)."""
    path, folders = Path(name), [FOLDERS[kind]] if kind else list(dict.fromkeys(FOLDERS.values()))
    if path.is_file():
        return path
    found = [folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise SpecError(f"{name!r} is a study and a recipe: say which, {' or '.join(map(str, found))}")
    files = sorted(file for folder in folders for file in folder.glob("*.yaml"))
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise SpecError(f"{name}: no such file{nearest_file(path) or did_you_mean(name, map(str, files), 0.8)}")
    known = [file.stem for file in files if kind is None or _may_be(file, kind)]
    there = f"; there are {', '.join(known)}" if known else f"; there is none in ./{' or ./'.join(map(str, folders))}"
    raise SpecError(f"no {kind or 'study or recipe'} is called {name!r}{did_you_mean(name, known) or there}")


def _may_be(path: Path, kind: Kind) -> bool:
    """Whether it is of that kind, or so broken that nobody knows."""
    try:
        return kind_of(path) == kind
    except SpecError:
        return True


def kind_of(path: Path) -> Kind:
    """By its keys: only a search has a space or a sampler, only a study has arms, a factor or a baseline."""
    keys = read_document(path).plain().keys()
    if keys & {"space", "sampler", "pruner", "budget"}:
        return "search"
    return "study" if keys & {"arms", "question", "factor", "baseline"} else "recipe"


def headline(path: Path) -> str:
    """The first line of a study's question or of a recipe's description; empty where there is none."""
    keys = read_document(path).plain()
    return str(keys.get("question") or keys.get("description") or "").strip().partition("\n")[0]


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> RunSpec:
    """The RunSpec in a YAML file: nested keys, on top of its `base:` where it has one. Raises SpecError."""
    tree, changes = recipe_tree(Path(path)), sets(overrides)
    before = spec_of(tree)
    if not changes:
        return before
    after = spec_of(resolved(put(tree, changes)))
    for each in changes:
        refuse_unchanged(before, after, each, ".".join(each.path))
    return after


def load_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """The Study in a YAML file, named after it; with overrides it is another study, and has another name.

    Overrides of a study's own keys go to the study (`seeds=[0, 1]`, `arms.NAME.optim.lr=1e-3`), all others to its base;
    `profile=NAME` takes the study at another scale (scale.py), before all others. Raises SpecError.
    """
    asked = sets(overrides)
    profile = next((each.item for each in asked if each.path == ("profile",)), None)
    asked = [each for each in asked if each.path != ("profile",)]
    base, study = _study(Path(path), profile, _Changes([], [], []))
    if not asked:
        return study
    changes = _assigned(asked, [arm.name for arm in study.arms])
    new_base, new_study = _study(Path(path), profile, changes)
    before, after = ({arm.name: arm.spec for arm in each.arms} for each in (study, new_study))
    for each in changes.study:
        refuse_unchanged(study, new_study, each, ".".join(each.path))
    for each in changes.base:
        refuse_unchanged(base, new_base, each, ".".join(each.path))
    for name, each in changes.arms:
        refuse_unchanged(before[name], after[name], each, ".".join(("arms", name, *each.path)))
    content = {".".join(each.path): each.item.plain() for each in asked}
    return new_study.model_copy(update={"name": f"{study.name}-{content_id(content)[:6]}"})


class _Changes(NamedTuple):
    """The --set overrides of a study, by what they are for."""

    study: list[Override]
    base: list[Override]
    arms: list[tuple[str, Override]]  # the path of each begins inside the arm


def _assigned(overrides: Sequence[Override], arms: Sequence[str]) -> _Changes:
    changes = _Changes([], [], [])
    for each in overrides:
        if each.path[0] == "arms":
            changes.arms.append(_in_arm(each, arms))
        else:
            (changes.study if each.path[0] in _OWN else changes.base).append(each)
    return changes


def _in_arm(override: Override, arms: Sequence[str]) -> tuple[str, Override]:
    """The arm that `arms.NAME.a.b` means, where a name may have dots in it; and the override inside of it."""
    text = ".".join(override.path[1:])
    matching = [name for name in arms if f"{text}.".startswith(f"{name}.")]
    if not matching:
        near = did_you_mean("".join(override.path[1:2]), list(arms)) or f"; there are {', '.join(arms)}"
        raise SpecError(f"{override.item.where}: no such arm{near}")
    name = max(matching, key=len)
    if text == name:
        raise SpecError(f"{override.item.where}: wants a field, such as arms.{name}.optim.lr=1e-3")
    return name, override._replace(path=tuple(text[len(name) + 1 :].split(".")))


def _study(path: Path, profile: Item | None, changes: _Changes) -> tuple[RunSpec, Study]:
    """(the base, the study), with the --set `changes` made in them."""
    tree = _factor_as_list(put(_factor_as_list(at_scale(read_document(path), profile)), changes.study))
    validated(study_file, tree.plain(), tree)
    entries = mapping(tree)
    base_tree = resolved(put(recipe_tree(reference(entries["base"], "base")), changes.base))
    base, factors = spec_of(base_tree), _factors(entries["factor"])
    arms = dict[str, RunSpec]()
    for name, item in mapping(entries["arms"]).items():
        own = leaves(mapping(item)) + [each for arm, each in changes.arms if arm == name]
        arms[name] = spec_of(resolved(put(base_tree, own)), ("arms", name))
        for each in own:
            _refuse_confound(name, each, own, factors, base, arms[name])
    name = path.stem if profile is None or profile.value == OWN else f"{path.stem}-{profile.value}"
    return base, _checked(name, tree, arms)


def _factor_as_list(tree: Item) -> Item:
    factor = mapping(tree).get("factor")
    if factor is None or not isinstance(factor.value, str):
        return tree
    return replace(tree, value={**mapping(tree), "factor": replace(factor, value=[factor])})


def _factors(factor: Item) -> list[str]:
    assert isinstance(factor.value, list)
    for each in factor.value:
        path = str(each.value).split(".")
        if not is_field(RunSpec, path):
            raise SpecError(f"{each.where}: factor: there is no field {each.value!r}{suggestion(RunSpec, path)}")
    return factor.plain()  # type: ignore[no-any-return]  # a list, as was asserted


def _refuse_confound(
    arm: str, each: Override, own: Sequence[Override], factors: Sequence[str], base: RunSpec, spec: RunSpec
) -> None:
    """An arm's override must change something against the base, and lie under a factor of the study."""
    name = ".".join(("arms", arm, *each.path))
    beside = [other for other in own if other.path[:-1] == each.path[:-1]]
    if each.path[-1:] and each.path[-1] in TAGS and len(beside) > 1 and not changes_anything(base, spec, each):
        return  # it only says which member of a union the values beside it are for
    refuse_unchanged(base, spec, each, name)
    if not any(f"{'.'.join(each.path)}.".startswith(f"{factor}.") for factor in factors):
        raise SpecError(f"{each.item.where}: {name}: lies outside the study's factor ({', '.join(factors)})")


def _checked(name: str, tree: Item, arms: Mapping[str, RunSpec]) -> Study:
    """The study, expanded once, so that all its errors appear when it is loaded."""
    entries = {name: item for name, item in mapping(tree).items() if name != "base"}
    plain = {name: item.plain() for name, item in entries.items()}
    plain |= {"name": name, "arms": [{"name": arm, "spec": arms[arm].model_dump(mode="json")} for arm in arms]}
    if (tune := entries.get("tune")) and tune.value is not None:
        plain["tune"] = tune_of(tune).model_dump(mode="json")
    named = [replace(item, value={"name": replace(item, value=arm)}) for arm, item in mapping(entries["arms"]).items()]
    study = validated(Study, plain, replace(tree, value={**entries, "arms": replace(entries["arms"], value=named)}))
    try:
        expand(study)
    except ValueError as error:
        guilty = [word.strip(":,") for word in str(error).split() if word.strip(":,") in arms]
        raise SpecError(f"{locate(tree, ('arms', *guilty[:1]))}: {error}") from None
    if tune and study.tune:
        refuse_untunable(study, tune)
    return study
