"""A run is its content hash: old ids survive, every choice counts, how it was written does not.

`python tests/spec/test_identity.py` adds the ids of the recipes in experiments/ that the golden file does not hold yet.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from dinov2lab.spec.identity import content_id, run_id
from dinov2lab.spec.load import kind_of, load_recipe
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.section import Section, later

GOLDEN = Path(__file__).parent.parent / "golden" / "run_ids.json"
EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
WHOLE = {  # every section and every member of every union
    "curation": {
        "leaks": {"against": ["toyweb:test"], "embedder": {"kind": "thumbnails"}},
        "stages": [
            {"stage": "duplicates", "embedder": {"kind": "timm", "name": "vit_small_patch14_dinov2"}},
            {
                "stage": "retrieve",
                "queries": "toyweb:queries",
                "embedder": {"kind": "run", "run": {"optim": {"lr": 0.01}}},
                "images": 9,
            },
            {"stage": "sample", "images": 5},
        ],
    },
    "objective": {"ibot": {"head": {"prototypes": 64}}},
    "seed": 3,
}


def spec_of(tree: Any) -> RunSpec:
    return RunSpec.model_validate_json(json.dumps(tree))


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()) if GOLDEN.exists() else ["missing"])
def test_old_ids_survive(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    assert run_id(spec_of(golden["spec"])) == golden["id"]


def test_the_golden_file_holds_specs_of_all_kinds() -> None:
    assert {"defaults", "whole"} <= json.loads(GOLDEN.read_text()).keys()


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("optim: {lr: 1e-4}", "optim: {lr: 0.0001}"),
        ("views: {flip: 1}", "views: {flip: 1.0}"),
        ("optim: {betas: [0, 1]}", "optim: {betas: [0.0, 1.0]}"),
        ("seed: 1\nmodel: {size: tiny, patch: 16}", "model: {patch: 16, size: tiny}\nseed: 1"),
        ("seed: 0", "data: {train: toyweb:pool}\nevaluation: {knn: {temperature: 0.07}}"),
        ("seed: 0x10", "seed: 16"),
    ],
)
def test_spelling_does_not_matter(tmp_path: Path, one: str, same: str) -> None:
    ids = []
    for text in (one, same):
        (tmp_path / "x.yaml").write_text(text)
        ids.append(run_id(load_recipe(tmp_path / "x.yaml")))
    assert ids[0] == ids[1]


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """`value` with one choice in it changed, for each choice: (its name, the changed value)."""
    match value:
        case BaseModel():
            for name in type(value).model_fields:
                for inner, other in variants(getattr(value, name)):
                    yield f"{name}.{inner}", value.model_copy(update={name: other})
        case tuple():
            yield "longer", (*value, "x")
            for index, each in enumerate(value):
                for inner, other in variants(each):
                    yield f"{index}.{inner}", (*value[:index], other, *value[index + 1 :])
        case bool():
            yield "not", not value
        case int() | float():
            yield "more", value + 1
        case str():
            yield "longer", value + "x"
        case None:
            yield "something", "x"


def test_every_choice_changes_the_id_and_no_two_alike() -> None:
    whole = spec_of(WHOLE)
    named = dict(variants(whole))
    ids = [run_id(whole), *map(run_id, named.values())]
    assert len(named) > 100
    assert len(set(ids)) == len(ids)
    for part in (
        "optim.lr.more",
        "curation.stages.1.embedder.run.optim.lr.more",
        "curation.stages.2.images.more",
        "replicate.more",
    ):
        assert part in named


def test_where_it_runs_is_no_part_of_a_spec() -> None:
    assert not Resources.model_fields.keys() & RunSpec.model_fields.keys()


class Before(Section):
    lr: float = 1.0


class After(Before):
    warmup: Literal["cosine", "linear"] = later(absent="linear")
    scales: tuple[float, ...] = later(absent=(0.1, 1.0), min_length=1)


class Outer(Section):
    inner: Before | After = Before()


class TestFieldsAddedLater:
    def test_leave_the_id_alone_at_the_value_that_their_absence_meant(self) -> None:
        assert content_id(After()) == content_id(Before())
        assert content_id(After.model_validate_json('{"scales": [0.1, 1]}')) == content_id(Before())
        assert content_id(Outer(inner=After())) == content_id(Outer())

    def test_count_at_any_other(self) -> None:
        ids = [content_id(each) for each in (After(), After(warmup="cosine"), After(scales=(0.2,)), Before(lr=2.0))]
        assert len(set(ids)) == 4

    def test_keep_their_constraints(self) -> None:
        with pytest.raises(ValueError, match="at least 1 item"):
            After(scales=())


def trees(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Values of plain JSON types that a field of that annotation takes; the fields of sections may be left out."""
    bounds = {type(each): each for each in metadata}
    if get_origin(annotation) is Annotated:
        base, *extra = get_args(annotation)
        return trees(
            base, metadata + tuple(m for e in extra for m in (e.metadata if isinstance(e, FieldInfo) else (e,)))
        )
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is Union or isinstance(annotation, type(int | str)):
        return st.one_of([trees(each) for each in get_args(annotation)])
    if get_origin(annotation) is tuple:
        first, *rest = get_args(annotation)
        if rest == [Ellipsis]:
            return st.lists(
                trees(first), min_size=getattr(bounds.get(annotated_types.MinLen), "min_length", 0), max_size=3
            )
        return st.tuples(*(trees(each) for each in (first, *rest))).map(list)
    if annotation in (int, float):
        return numbers(annotation, bounds)
    if annotation is RunSpec:  # one inside of another
        return st.fixed_dictionaries({"seed": st.integers(0, 9)})
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sections(annotation)
    if patterns := [each.pattern for each in metadata if getattr(each, "pattern", None)]:
        return st.from_regex(patterns[0].replace("\\w", "a-z"), fullmatch=True).filter(lambda name: len(name) < 40)
    return {
        str: st.text(st.characters(codec="utf-8", exclude_characters="\x85")),
        bool: st.booleans(),
        type(None): st.none(),
    }[annotation]


def numbers(kind: type, bounds: dict[type, Any]) -> st.SearchStrategy[Any]:
    above, least = bounds.get(annotated_types.Gt), bounds.get(annotated_types.Ge)
    below, most = bounds.get(annotated_types.Lt), bounds.get(annotated_types.Le)
    low = above.gt if above else least.ge if least else None
    high = below.lt if below else most.le if most else None
    if kind is int:
        return st.integers(-(2**40) if low is None else low, 2**40 if high is None else high)
    return st.floats(
        low, high, exclude_min=above is not None, exclude_max=below is not None, allow_nan=False, allow_infinity=False
    )


def sections(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: trees(field.annotation, tuple(field.metadata)) for name, field in model.model_fields.items()}
    tags = {name for name in fields if name in ("kind", "stage")}
    needed = {name: fields[name] for name in fields if model.model_fields[name].is_required() or name in tags}
    return st.fixed_dictionaries(needed, optional={name: fields[name] for name in fields if name not in needed})


def fitted(tree: dict[str, Any]) -> dict[str, Any]:
    """What hangs together, made to."""
    patch, group = tree.get("model", {}).get("patch", 16), tree.get("objective", {}).get("koleo", {}).get("group", 32)
    views, optim = tree.setdefault("views", {}), tree.setdefault("optim", {})
    views |= {"global_px": patch * 4, "local_px": patch * 2}
    optim |= {"batch": group * 2, "warmup_steps": min(optim.get("warmup_steps", 0), optim.get("steps", 1))}
    for place, shift in enumerate(tree.get("evaluation", {}).get("shifted", [])):
        shift["name"] += str(place)
    fit_stages((tree.get("curation") or {}).get("stages", []))
    if distill := (objective := tree.get("objective", {})).get("distill"):
        heads = {name: objective[name] for name in ("dino", "ibot") if name in objective}
        distill["run"] |= {"model": {"patch": patch}, "views": dict(views), "objective": heads}
    return tree


def fit_stages(stages: list[dict[str, Any]]) -> None:
    for stage in stages:
        fit_stages(stage.get("of", []))
        for part in stage.get("parts", []):
            fit_stages(part.get("stages", []))
        if (seen := stage.get("embedder", {})).get("kind") == "filters":
            small = {"patch": min(seen.get("patch", 5), 9), "stride": min(seen.get("stride", 1), 7)}
            seen |= {"px": 16 + seen.get("px", 16) % 3 * 8} | small
        if stage["stage"] == "retrieve":
            rule = stage.get("rule", "ranks")
            if rule == "ranks":
                stage |= {"per_query": stage.get("per_query") or 4}
            else:
                stage |= {"images": stage.get("images") or 5, "per_query": None, "collisions": "fill"}
            stage |= {} if rule == "share" else {"neighbours": 100, "whiten": 0.0}
            stage |= {} if rule == "density" else {"width": 0.05, "mirrored": False}
        if stage.get("rule") != "semdedup":
            stage.pop("clusters", None) if stage["stage"] == "duplicates" else None
        elif stage.get("embedder", {}).get("kind") == "copies":
            stage.pop("embedder")


@settings(deadline=None)  # a loaded machine is no error
@given(sections(RunSpec).map(fitted))
def test_a_spec_survives_being_written_as_yaml(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    spec = spec_of(tree)
    file = tmp_path_factory.getbasetemp() / "round.yaml"
    yaml = YAML(typ="safe", pure=True)
    yaml.width = 10**9  # a fold between escapes loses a blank
    yaml.allow_unicode = False  # a bare U+0085 in quotes is a line break to a reader, and folded
    with file.open("wb") as stream:
        yaml.dump(spec.model_dump(mode="json"), stream)
    assert run_id(load_recipe(file)) == run_id(spec)


def _add_recipes() -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    specs = {"defaults": RunSpec(), "whole": spec_of(WHOLE)}
    specs |= {file.stem: load_recipe(file) for file in sorted(EXPERIMENTS.glob("*.yaml")) if kind_of(file) == "recipe"}
    for name, spec in specs.items():
        golden.setdefault(name, {"id": run_id(spec), "spec": spec.model_dump(mode="json")})
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    _add_recipes()
