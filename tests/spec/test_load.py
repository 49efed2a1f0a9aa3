"""Recipes and studies from YAML: what is read; every mistake is a line with its place and the nearest right thing."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinov2lab.spec.embedders import RunEmbedder
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import SpecError, find, headline, kind_of, load_recipe, load_study
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import expand

BASE = """\
description: what to expect
optim: {steps: 40, batch: 32, warmup_steps: 4, lr: 1e-3}
objective:
  koleo:
    group: 16
"""
STUDY = """\
question: Does it help?
base: base.yaml
factor: [curation, data.train]
baseline: uncurated
seeds: [0, 1]
metrics: [test/knn]
decide: {metric: test/knn, alpha: 0.05}
arms:
  uncurated:
    curation.stages: [{stage: sample, images: 2000}]
  retrieved:
    curation:
      stages: [{stage: retrieve, queries: "toyweb:queries", embedder: {kind: run, run: embedder.yaml}, images: 2000}]
  queries.only: {data.train: toyweb:queries}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "embedder.yaml").write_text("base: base.yaml\ndata: {train: toyweb:queries}\n")
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(text: str | bytes, *overrides: str, study: bool = False) -> str:
    Path("x.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SpecError) as error:
        (load_study if study else load_recipe)("x.yaml", overrides)
    return str(error.value)


def study_complaint(old: str, new: str, *overrides: str) -> str:
    assert old in STUDY
    return complaint(STUDY.replace(old, new), *overrides, study=True)


@pytest.mark.usefixtures("folder")
class TestRecipes:
    def test_base_lies_under_the_recipe_and_mappings_merge(self) -> None:
        Path("x.yaml").write_text("base: embedder.yaml\noptim: {lr: 2e-3}\nevaluation: {knn: {k: [5]}}\n")
        spec = load_recipe("x.yaml")
        assert (spec.optim.lr, spec.optim.steps, spec.objective.koleo.group) == (2e-3, 40, 16)
        assert (spec.data.train, spec.evaluation.knn.k) == ("toyweb:queries", (5,))

    def test_base_is_relative_to_its_file(self) -> None:
        Path("deep").mkdir()
        Path("deep/x.yaml").write_text("base: ../base.yaml\n")
        assert load_recipe("deep/x.yaml") == load_recipe("base.yaml")

    def test_yaml_is_1_2(self) -> None:
        Path("x.yaml").write_text("views: {blur: off, flip: 1}\noptim: {lr: 1e-4, warmup_steps: 0o17}\n")
        spec = load_recipe("x.yaml")
        assert (spec.views.blur, spec.views.flip, spec.optim.lr, spec.optim.warmup_steps) == ("off", 1.0, 1e-4, 15)

    def test_keys_with_dots(self) -> None:
        Path("x.yaml").write_text("optim.lr: 3e-3\nobjective: {teacher.temperature: 0.05}\n")
        assert load_recipe("x.yaml").objective.teacher.temperature == 0.05

    def test_another_member_of_a_union_replaces_the_former(self) -> None:
        leaks = "curation.leaks: {against: ['toyweb:test'], embedder: {%s}}\n"
        Path("one.yaml").write_text(leaks % "kind: thumbnails, px: 8")
        Path("two.yaml").write_text("base: one.yaml\ncuration: {leaks: {embedder: {name: vit, kind: timm}}}\n")
        curation = load_recipe("two.yaml").curation
        assert curation
        assert curation.leaks
        assert curation.leaks.embedder.model_dump() == {"kind": "timm", "name": "vit", "px": 224}
        assert curation.leaks.against == ("toyweb:test",)

    def test_set_reaches_elements_of_lists(self) -> None:
        Path("x.yaml").write_text("curation: {stages: [{stage: duplicates}, {stage: sample, images: 5}]}\n")
        spec = load_recipe("x.yaml", ["curation.stages.0.threshold=0.9", "curation.stages.1={images: 6}"])
        assert spec.curation
        assert [stage.model_dump(include={"threshold", "images"}) for stage in spec.curation.stages] == [
            {"threshold": 0.9},
            {"images": 6},
        ]

    def test_an_embedder_names_a_recipe_and_set_reaches_into_it(self) -> None:
        Path("x.yaml").write_text("curation.leaks: {against: [a], embedder: {kind: run, run: embedder.yaml}}\n")
        spec = load_recipe("x.yaml", ["curation.leaks.embedder.run.optim.steps=30"])
        assert spec.curation
        assert spec.curation.leaks
        embedder = spec.curation.leaks.embedder
        assert isinstance(embedder, RunEmbedder)
        assert embedder.run == load_recipe("embedder.yaml", ["optim.steps=30"])

    def test_kind_and_headline(self) -> None:
        assert (kind_of(Path("base.yaml")), headline(Path("base.yaml"))) == ("recipe", "what to expect")
        assert (kind_of(Path("study.yaml")), headline(Path("study.yaml"))) == ("study", "Does it help?")


MISTAKES = [
    ("optim:\n  lrr: 1", "x.yaml:2: optim.lrr: no such field; did you mean optim.lr?"),
    ("lr: 3", "x.yaml:1: lr: no such field; did you mean optim.lr?"),
    ("teacher_temperature: 1", "x.yaml:1: teacher_temperature: no such field; did you mean objective.teacher.temp"),
    ("foo: 1", "x.yaml:1: foo: no such field; there are curation, data, "),
    ("optim: {steps: many}", "x.yaml:1: optim.steps: 'many' is no integer"),
    ("optim: {steps: '3'}", "optim.steps: '3' is no integer"),
    ("optim: {steps: true}", "optim.steps: true is no integer"),
    ("optim: {steps: 1.5}", "optim.steps: 1.5 is no integer"),
    ("optim: {steps: 1e3}", "optim.steps: 1000.0 is no integer; write 1000"),
    ("optim: {lr: true}", "optim.lr: true is no number"),
    ("optim: {lr: .inf}", "optim.lr: inf is no finite number"),
    ("optim: {lr: .nan}", "optim.lr: nan is no finite number"),
    ("optim:\n  batch: 64\n  lr: -1", "x.yaml:3: optim.lr: -1 is out of range: it must be more than 0"),
    ("views: {flip: 2}", "views.flip: 2 is out of range: it must be at most 1"),
    ("optim:", "x.yaml:1: optim: null is no mapping"),
    ("optim: {deterministic: no}", "optim.deterministic: 'no' is no choice of true and false"),
    ("optim: {betas: [0.1]}", "optim.betas.1: the list is too short"),
    ("optim: {betas: [0, 0, 0]}", "optim.betas: the list is too long"),
    (
        "model: {size: smal}",
        "model.size: 'smal' is none of pico, nano, tiny, small, base, large, giant; did you mean small?",
    ),
    ("data: {train: 3}", "data.train: 3 is no text"),
    (
        "curation:\n  stages:\n  - stage: smaple",
        "x.yaml:3: curation.stages.0.stage: 'smaple' is none of duplicates, qual",
    ),
    ("curation: {stages: [{images: 3}]}", "curation.stages.0.stage: missing required key; one of duplicates, "),
    ("curation: {stages: [{stage: sample}]}", "x.yaml:1: curation.stages.0.images: missing required key"),
    ("curation: {stages: 3}", "curation.stages: 3 is no list"),
    (
        "curation: {leaks: {against: [a], embedder: {kind: timm, name: x, pxx: 1}}}",
        "did you mean curation.leaks.embedder.px",
    ),
    ("optim:\n  steps: 9\n", "x.yaml:2: optim: warmup_steps 12500 is longer than the run of 9 steps"),
    ("optim:\n  steps: 12501\n  batch: 33", "x.yaml:3: optim.batch 33 is no multiple of objective.koleo.group 32"),
    ("optim: {lr: 1}\noptim: {lr: 2}", "x.yaml:2: optim: stands twice (first at x.yaml:1)"),
    ("optim: {lr: 1}\noptim.lr: 2", "x.yaml:2: optim.lr: stands twice"),
    ("base: basse.yaml", "x.yaml:1: base: there is no file basse.yaml; did you mean base.yaml?"),
    ("base: 3", "x.yaml:1: base: is no path of a YAML file"),
    ("base: x.yaml", "goes round in a circle: x.yaml -> x.yaml"),
    ("description: [1]", "x.yaml:1: description: is no text"),
    ("", "x.yaml: is empty"),
    ("# nothing\n", "x.yaml: is empty"),
    ("- 1", "x.yaml: is no mapping of keys to values"),
    ("a: [1", "x.yaml:1:6: broken YAML: expected ',' or ']'"),
    ("a:\n\tb: 1", "x.yaml:2:1: broken YAML: found character '\\t' that cannot start any token"),
    ("a: 1\n---\nb: 2", "x.yaml:2:1: broken YAML"),
    ("[a]: 1", "x.yaml:1: a key must be a word"),
    ("optim: !!python/object:os.system {}", "has no meaning here"),
    ("optim: {lr: !secret x}", "x.yaml:1: the tag !secret has no meaning here"),
    ("seed: 99999999999999999999", "x.yaml:1: the integer is too large"),
    ('data: {train: "\\ud800"}', "x.yaml:1: holds half of a character"),
    ("a: &a [*a]", "x.yaml"),
    ("[" * 5000, "x.yaml: is nested too deeply"),
    (b"\x89PNG\r\n\x1a\n\x00", "x.yaml: is no text in UTF-8 (byte 0)"),
    (b"a: \x00", "x.yaml: broken YAML"),
    (b"a" * 2_000_000, "x.yaml: is too large for a spec"),
]


@pytest.mark.usefixtures("folder")
class TestMistakes:
    @pytest.mark.parametrize(("text", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
    def test_each_is_one_line_with_its_place(self, text: str | bytes, words: str) -> None:
        said = complaint(text)
        assert words in said
        assert len(said.splitlines()) == 1

    def test_several_are_listed_up_to_five(self) -> None:
        lines = complaint("\n".join(f"a{number}: 1" for number in range(7))).splitlines()
        assert [line.split(":")[1] for line in lines[:5]] == list("12345")
        assert lines[5:] == ["... and 2 more"]

    def test_a_mistake_in_the_base_is_told_at_the_base(self) -> None:
        Path("bad.yaml").write_text("optim:\n  lrr: 1\n")
        assert complaint("base: bad.yaml") == "bad.yaml:2: optim.lrr: no such field; did you mean optim.lr?"

    def test_aliases_cannot_explode(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        assert "holds more than" in complaint("\n".join(lines))

    def test_folder_missing_file_and_no_permission(self, folder: Path) -> None:
        with pytest.raises(SpecError, match="is a folder"):
            load_recipe(folder)
        with pytest.raises(SpecError, match=r"no such file; did you mean base\.yaml"):
            load_recipe("bas.yaml")
        if os.geteuid():  # root may read anything
            Path("base.yaml").chmod(0)
            with pytest.raises(SpecError, match="cannot be read: Permission denied"):
                load_recipe("base.yaml")

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("optim.lrr=3", "--set optim.lrr=3: optim.lrr: no such field; did you mean optim.lr?"),
            ("optim.lr", "wants KEY=VALUE"),
            ("optim.lr=", "wants KEY=VALUE"),
            ("a..b=1", "wants KEY=VALUE"),
            ("optim.lr=[", "--set optim.lr=[: broken YAML"),
            ("optim.steps=40", "--set optim.steps=40: optim.steps: changes nothing"),
            ("seed=0", "changes nothing"),
            ("optim={}", "changes nothing"),
            ("curation.stages.0.threshold=0.9", "there is no element 0"),
        ],
    )
    def test_overrides(self, override: str, words: str) -> None:
        assert words in complaint(BASE, override)

    def test_an_override_stands_once(self) -> None:
        assert "is set twice" in complaint(BASE, "optim.lr=1", "optim.lr=2")
        assert "stands twice" in complaint(BASE, "optim.lr=1", "optim={lr: 2}")


@pytest.mark.usefixtures("folder")
class TestStudies:
    def test_arms_are_the_base_and_their_overrides(self) -> None:
        study = load_study("study.yaml")
        base, arms = load_recipe("base.yaml"), {arm.name: arm.spec for arm in study.arms}
        assert (study.name, study.factor, list(arms)) == (
            "study",
            ("curation", "data.train"),
            ["uncurated", "retrieved", "queries.only"],
        )
        assert arms["queries.only"] == base.model_copy(
            update={"data": base.data.model_copy(update={"train": "toyweb:queries"})}
        )
        assert arms["retrieved"].curation.stages[0].embedder.run == load_recipe("embedder.yaml")
        assert len(expand(study)) == 6

    def test_the_base_itself_may_be_an_arm_and_the_factor_a_word(self) -> None:
        text = STUDY[: STUDY.index("arms:")].replace("[curation, data.train]", "replicate")
        Path("y.yaml").write_text(text + "arms: {uncurated: {}, again: {replicate: 1}}\n")
        study = load_study("y.yaml")
        assert study.factor == ("replicate",)
        assert study.arms[0].spec == load_recipe("base.yaml")

    def test_overrides_go_to_the_study_to_an_arm_or_to_the_base(self) -> None:
        study = load_study(
            "study.yaml", ["seeds=[4]", "optim.steps=50", "arms.queries.only.data.train=folder:q", "decide.alpha=0.1"]
        )
        assert (study.seeds, study.decide.alpha) == ((4,), 0.1)
        assert {arm.spec.optim.steps for arm in study.arms} == {50}
        assert study.arms[2].spec.data.train == "folder:q"

    def test_overrides_make_another_study_of_another_name(self) -> None:
        names = [load_study("study.yaml", sets).name for sets in (["seeds=[4]"], ["seeds=[ 4 ]"], ["seeds=[5]"])]
        assert names[0] == names[1] != names[2]
        assert names[0].startswith("study-")
        assert len(names[0]) == len("study-") + 6

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("question: ", "qestion: ", "x.yaml:1: qestion: no such field; did you mean question?"),
            ("baseline: uncurated\n", "", "x.yaml: baseline: missing required key"),
            ("baseline: uncurated", "baseline: curated", "x.yaml:4: the baseline 'curated' is none of the arms"),
            ("base: base.yaml", "base: bse.yaml", "x.yaml:2: base: there is no file bse.yaml; did you mean base.yaml?"),
            (
                "[curation, data.train]",
                "[curaton, data.train]",
                "x.yaml:3: factor: there is no field 'curaton'; did you m",
            ),
            ("[0, 1]", "[0, 0]", "a seed stands twice"),
            ("seeds: [0, 1]", "seeds: 2", "x.yaml:5: seeds: 2 is no list"),
            (
                "metric: test/knn",
                "metric: test/linear",
                "x.yaml:7: decide.metric 'test/linear' is not among the metrics",
            ),
            ("alpha", "alhpa", "x.yaml:7: decide.alhpa: no such field; did you mean decide.alpha?"),
            (
                "data.train: toyweb:q",
                "data.trian: toyweb:q",
                "x.yaml:14: arms.queries.only.data.trian: no such field; did y",
            ),
            ("toyweb:queries}", "toyweb:pool}", "x.yaml:14: arms.queries.only.data.train: changes nothing"),
            (
                "{data.train: toyweb:queries}",
                "{optim.lr: 1}",
                "arms.queries.only.optim.lr: lies outside the study's factor (cu",
            ),
            ("{data.train: toyweb:queries}", "null", "x.yaml:14: arms.queries.only: null is no mapping"),
            ("queries.only", "a b", "x.yaml:14: arms.2.name: 'a b' may hold only letters"),
            (
                "{data.train: toyweb:queries}",
                "{curation.stages: [{stage: sample, images: 2000}]}",
                "one and the same run",
            ),
            (
                "embedder.yaml",
                "embeder.yaml",
                "x.yaml:13: run: there is no file embeder.yaml; did you mean embedder.yaml?",
            ),
        ],
    )
    def test_mistakes(self, old: str, new: str, words: str) -> None:
        said = study_complaint(old, new)
        assert words in said
        assert len(said.splitlines()) <= 2  # an unknown key beside the missing one that it was meant to be

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("arms.retreived.optim.lr=1", "no such arm; did you mean retrieved?"),
            ("arms.retrieved.optim.lr=1", "arms.retrieved.optim.lr: lies outside the study's factor"),
            ("arms.retrieved={}", "wants a field"),
            ("seeds=[0,1]", "seeds: changes nothing"),
            ("equal=steps", "equal: changes nothing"),
            ("optim.lr=0.001", "optim.lr: changes nothing"),
        ],
    )
    def test_overrides(self, override: str, words: str) -> None:
        assert words in study_complaint("alpha", "alpha", override)

    def test_unequal_steps_are_told_when_the_study_is_loaded(self) -> None:
        said = study_complaint("{data.train: toyweb:queries}", "{data: {train: toyweb:queries}, optim.steps: 50}")
        assert "optim.steps: lies outside" in said
        text = STUDY.replace("data.train]", "data.train, optim.steps]").replace(
            "toyweb:queries}", "a, optim.steps: 50}"
        )
        assert "x.yaml:14: arm queries.only: optim.steps 50, but the study holds steps equal" in complaint(
            text, study=True
        )


@pytest.mark.parametrize("name", ["..", ".hidden", "two words", "it's", "a\nb", "a:b"])
def test_a_study_is_named_so_that_its_name_is_one_of_a_folder(folder: Path, name: str) -> None:
    (folder / f"{name}.yaml").write_text(STUDY)
    with pytest.raises(SpecError, match="may hold only letters") as error:
        load_study(f"{name}.yaml")
    assert str(error.value).endswith("no dot") == name.startswith(".")


def test_a_file_that_was_changed_is_read_anew(folder: Path) -> None:
    rates = []
    for rate in (0.125, 0.25):
        (folder / "x.yaml").write_text(f"optim: {{lr: {rate}}}")
        rates.append(load_recipe(Path("x.yaml")).optim.lr)
    assert rates == [0.125, 0.25]


def test_find(folder: Path) -> None:
    (folder / "ablations").mkdir()
    (folder / "ablations" / "data_size.yaml").write_text(STUDY)
    assert find("data_size", "study") == Path("ablations/data_size.yaml")
    assert find("study.yaml", "study") == Path("study.yaml")
    for name, words in {
        "data_sise": "no study is called 'data_sise'; did you mean data_size?",
        "qqq": "there are data_size",
        "ablations/data_sise.yaml": "did you mean data_size.yaml",
        "ablation/data_size.yaml": "did you mean ablations/data_size.yaml",
    }.items():
        with pytest.raises(SpecError, match=words):
            find(name, "study")
    with pytest.raises(SpecError, match=r"there is none in \./experiments"):
        find("data_size", "recipe")


def test_of_a_kind_that_is_asked_for_only_that_is_proposed(folder: Path) -> None:
    (folder / "experiments").mkdir()
    for name, text in {"plain": "optim: {lr: 0.1}", "wide": "space: {}\nbase: plain.yaml", "broken": "a: ["}.items():
        (folder / "experiments" / f"{name}.yaml").write_text(text)
    for kind, known in (("search", "broken, wide"), ("recipe", "broken, plain")):
        with pytest.raises(SpecError, match=f"no {kind} is called 'qqq'; there are {known}$"):
            find("qqq", kind)


WORDS = "optim lr base curation stages stage kind run seed optim.lr leaks 0 arms factor seeds question embedder"
KEYS = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


class TestHostileText:
    @settings(deadline=None)  # a loaded machine is no error
    @given(st.text() | st.text(alphabet="ab:-[]{}#&*!|>'\"%@`\n\t ,?0.<=~\\u"))
    @example("%YAML 1.1\n---\na: off")
    @example("a: !!int x")
    @example("a: !!float x")
    @example("%TAG ! a")
    @example("? ")
    @example("a: 0x" + "f" * 5000)
    def test_any_text_is_a_spec_or_a_spec_error(self, text: str) -> None:
        self.load(text, [])

    @settings(deadline=None)
    @given(st.dictionaries(KEYS, VALUES, max_size=5), st.lists(st.tuples(KEYS, VALUES), max_size=2))
    def test_any_tree_and_any_override(self, tree: dict[str, object], sets: list[tuple[str, object]]) -> None:
        self.load(repr_yaml(tree), [f"{key}={repr_yaml(value)}" for key, value in sets])

    def load(self, text: str, overrides: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.yaml"
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            for load in (load_recipe, load_study):
                with suppress(SpecError):
                    load(path, overrides)


def repr_yaml(value: object) -> str:
    return json.dumps(value).replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf")


def test_defaults_are_the_spec_of_a_description_alone(folder: Path) -> None:
    (folder / "x.yaml").write_text("description: the defaults\n")
    assert run_id(load_recipe("x.yaml")) == run_id(RunSpec())
