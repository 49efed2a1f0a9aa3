"""The JSON Schema of the files that people write: it takes what the loader takes, and catches a typo wherever it stands."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from dinov2lab.spec.document import read_document
from dinov2lab.spec.load import kind_of
from dinov2lab.spec.schema import FileKind, schema_of

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(
    [*ROOT.glob("ablations/*.yaml"), *ROOT.glob("experiments/*.yaml"), *ROOT.glob("experiments/slurm/*.yaml")]
)
RECIPES = [file for file in SHIPPED if file.parent.name == "experiments" and kind_of(file) == "recipe"]
CHECKS = {kind: Draft202012Validator(schema_of(kind)) for kind in get_args(FileKind)}


def refused(kind: FileKind, value: Any) -> str:
    """Why, with the place; nothing where the schema takes it."""
    return "; ".join(f"{error.json_path}: {error.message[:300]}" for error in CHECKS[kind].iter_errors(value))


@pytest.mark.parametrize("kind", get_args(FileKind))
def test_those_in_schemas_are_those_of_the_sections(kind: FileKind) -> None:
    """`dinov2lab schema` writes them anew."""
    Draft202012Validator.check_schema(schema_of(kind))
    assert json.loads((ROOT / "schemas" / f"{kind}.json").read_text()) == schema_of(kind)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_file_that_comes_along_points_at_its_schema_and_keeps_to_it(file: Path) -> None:
    pointed = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text())
    assert pointed
    schema = (file.parent / pointed[1]).resolve()
    assert schema.is_file()
    assert schema.stem == ("profile" if file.parent.name == "slurm" else kind_of(file))
    assert not refused(schema.stem, read_document(file).plain())


def misspelt(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """`value` with one of its keys misspelt, at every depth."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        if isinstance(value, dict):
            yield f"{above}{key}", {(f"{each}x" if each == key else each): part for each, part in value.items()}
        for name, changed in misspelt(inner, f"{above}{key}."):
            whole = {**value, key: changed} if isinstance(value, dict) else [*value[:key], changed, *value[key + 1 :]]
            yield name, whole


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_typo_in_any_key_of_a_recipe_is_caught(file: Path) -> None:
    found = list(misspelt(read_document(file).plain()))
    assert found
    assert not [name for name, value in found if not refused("recipe", value)]


STUDY = read_document(ROOT / "ablations" / "curation_vs_uncurated.yaml").plain()
SEARCH = read_document(ROOT / "experiments" / "search_masks.yaml").plain()


@pytest.mark.parametrize(
    ("kind", "value", "word"),
    [
        ("recipe", {"optim.lrr": 1e-3}, "optim.lrr"),
        ("recipe", {"optim": {"lr": "fast"}}, "fast"),
        ("recipe", {"objective": {"teacher.momentun": 0.9}}, "teacher.momentun"),
        ("recipe", {"curation": {"stages": [{"stage": "sampel", "images": 3}]}}, "sampel"),
        ("recipe", {"curation": {"stages": [{"images": 3}]}}, "is not valid"),
        ("study", {**STUDY, "arms": {"a": {"optim.lrr": 1e-3}}}, "optim.lrr"),
        ("study", {**STUDY, "sedes": [1]}, "sedes"),
        ("study", {**STUDY, "profiles": {"gpu": {"sedes": [1]}}}, "sedes"),
        ("study", {**STUDY, "decide": {"metric": "test/knn", "rule": "t"}}, "'t'"),
        ("study", {key: value for key, value in STUDY.items() if key != "baseline"}, "baseline"),
        ("search", {**SEARCH, "space": {"optim.lrr": {"log": [1e-3, 1e-2]}}}, "optim.lrr"),
        ("search", {**SEARCH, "sampler": "tpee"}, "tpee"),
        ("search", {**SEARCH, "budget": {"trails": 3}}, "trails"),
        ("profile", {"partiton": "gpu"}, "partiton"),
    ],
)
def test_a_mistake_is_caught(kind: FileKind, value: Any, word: str) -> None:
    assert word in refused(kind, value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("recipe", {"base": "small.yaml"}),
        ("recipe", {"base": "small.yaml", "optim.lr": 1e-3, "objective": {"teacher.momentum": 0.99, "ibot.weight": 0}}),
        ("recipe", {"base": "small.yaml", "curation.stages.0.images": 10, "curation": None}),
        ("recipe", {"curation": {"leaks": {"against": ["x:y"], "embedder": {"kind": "run", "run": "other.yaml"}}}}),
        ("study", {**STUDY, "factor": ["curation", "optim.lr"], "arms": {"a": {}, "b": {"optim": {"lr": 0.1}}}}),
        ("search", {**SEARCH, "sampler": {"kind": "tpe", "startup": 3}, "pruner": "asha"}),
        ("search", {**SEARCH, "space": {"optim": {"lr": {"log": [1e-3, 1e-2]}}}}),
    ],
)
def test_what_the_loader_takes_is_taken(kind: FileKind, value: Any) -> None:
    assert not refused(kind, value)
