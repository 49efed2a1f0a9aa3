"""Searches from YAML: what is read, which runs a point is, and that every mistake is one line with its place."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.spec.cost import flops_of_run, images_of_run
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import SpecError, kind_of, load_recipe
from dinov2lab.spec.load_search import load_search
from dinov2lab.spec.points import active, base_point, runs_at, spec_at
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.search import SearchSpec, produced, search_id

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent.parent / "golden" / "searches.json"
BASE = """\
optim: {steps: 40, batch: 32, warmup_steps: 4, lr: 1e-3}
objective: {koleo: {group: 16}, teacher: {temperature_warmup_steps: 10}}
"""
SEARCH = """\
question: Which?
base: base.yaml
space:
  optim.lr: {log: [1e-5, 1e-2]}
  objective.teacher.centering: {choices: [sinkhorn, ema]}
  objective.teacher.centre_momentum: {linear: [0.8, 1.0], when: {objective.teacher.centering: ema}}
  objective.ibot.masks.ratio.1: {linear: [0.1, 0.9]}
  objective.teacher.temperature_warmup_steps: {integers: [0, 30]}
metrics: {val/knn: maximize}
budget: {trials: 12}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str = SEARCH, *overrides: str) -> SearchSpec:
    Path("x.yaml").write_text(text)
    return load_search("x.yaml", overrides)


def complaint(old: str, new: str, *overrides: str) -> str:
    assert old in SEARCH
    with pytest.raises(SpecError) as error:
        loaded(SEARCH.replace(old, new), *overrides)
    return str(error.value)


class TestReading:
    def test_a_point_is_the_base_with_its_values(self) -> None:
        point = {"optim.lr": 2e-3, "objective.ibot.masks.ratio.1": 0.4}
        spec = spec_at(loaded(), point)
        assert (spec.optim.lr, spec.objective.ibot.masks.ratio) == (2e-3, (0.1, 0.4))
        assert spec == load_recipe("base.yaml", ["optim.lr=2e-3", "objective.ibot.masks.ratio=[0.1, 0.4]"])

    def test_a_run_for_each_seed(self) -> None:
        search = loaded(SEARCH + "seeds: [3, 4]\n")
        assert [each.spec.seed for each in runs_at(search, {})] == [3, 4]
        assert [each.run for each in runs_at(search, {})] == [
            run_id(load_recipe("base.yaml", [f"seed={seed}"])) for seed in (3, 4)
        ]

    def test_metrics_are_what_the_base_is_measured_by(self) -> None:
        measured = RunSpec.model_validate_json(
            '{"evaluation": {"linear": null, "retrieval": true, "segmentation": {}}}'
        )
        assert {"val/knn", "val/retrieval", "val/segmentation"} <= set(produced(measured))
        assert "val/linear" not in produced(measured)
        assert not [name for name in produced(measured) if name.startswith("test/")]

    def test_conditional_fields_are_there_where_their_condition_holds(self) -> None:
        search = loaded()
        with_it = {key for key, _ in active(search, {"objective.teacher.centering": "ema"})}
        without = {key for key, _ in active(search, {"objective.teacher.centering": "sinkhorn"})}
        assert with_it - without == {"objective.teacher.centre_momentum"}

    def test_fields_may_stand_under_their_sections(self) -> None:
        nested = SEARCH.replace("  optim.lr: {log: [1e-5, 1e-2]}", "  optim: {lr: {log: [1e-5, 1e-2]}}")
        assert loaded(nested) == loaded()

    @pytest.mark.parametrize("equal", ["images", "flops"])
    def test_what_is_held_equal_is_equal(self, equal: str) -> None:
        search = loaded(SEARCH.replace("budget", f"equal: {equal}\nbudget"))
        for batch in (16, 32, 64):
            spec = spec_at(search, {"optim.batch": batch})
            assert images_of_run(spec) == images_of_run(search.base)
            assert flops_of_run(spec) == flops_of_run(search.base)
            assert spec.optim.warmup_steps == 4 * 32 // batch

    def test_the_base_as_a_point(self) -> None:
        point = base_point(loaded())
        assert spec_at(loaded(), point) == loaded().base
        assert point["optim.lr"] == 1e-3

    def test_another_budget_is_the_same_search_and_another_space_is_not(self) -> None:
        search = loaded()
        longer = loaded(SEARCH, "budget.trials=50")
        assert (longer.name, longer.budget.trials, search_id(longer)) == ("x", 50, search_id(search))
        other = loaded(SEARCH, "optim.steps=50")
        assert other.name.startswith("x-")
        assert (other.base.optim.steps, search_id(other) != search_id(search)) == (50, True)

    def test_the_shipped_searches_load_and_their_bases_lie_inside(self) -> None:
        files = [file for file in sorted((ROOT / "experiments").glob("*.yaml")) if kind_of(file) == "search"]
        assert len(files) >= 3
        for file in files:
            search = load_search(file)
            assert spec_at(search, base_point(search)) == search.base


def test_the_guides_example_loads() -> None:
    text = (ROOT / "docs" / "searches.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    shutil.copy(ROOT / "experiments" / "toyweb.yaml", "toyweb.yaml")
    assert loaded(text).earlier == ("search_masks", "data_size")


SPACE = "optim.lr: {log: [1e-5, 1e-2]}"
MISTAKES = [
    (SPACE, "optim.lrr: {log: [1e-5, 1e-2]}", "x.yaml:4: space.optim.lrr: no such field; did you mean optim.lr?"),
    (
        SPACE,
        "optim.lr: {log: [1e-2, 1e-5]}",
        "x.yaml:4: space.optim.lr: log: the lower bound 0.01 is not below 1e-05",
    ),
    (SPACE, "optim.lr: {log: [0.0, 1e-5]}", "x.yaml:4: space.optim.lr: log: the lower bound 0 is not above 0"),
    (
        SPACE,
        "optim.lr: {log: [1e-5, 1e-2], linear: [0.1, 0.2]}",
        "space.optim.lr: wants one of log, linear, integers, choices, and has log and linear",
    ),
    (SPACE, "optim.lr: {choices: []}", "space.optim.lr.choices: the list is too short"),
    (SPACE, "optim.lr: {choices: [0.1, 0.1]}", "a value stands twice in choices"),
    (SPACE, "optim.lr: {linear: [-1.0, 0.1]}", "x.yaml:4: space.optim.lr: at -1.0: optim.lr: "),
    (
        SPACE,
        "optim.batch: {choices: [32, 40]}",
        "space.optim.batch: at 40: optim.batch 40 is no multiple of objective.koleo.group 16",
    ),
    (SPACE, "seed: {integers: [0, 9]}", "space.seed: is not to be searched: it is chance"),
    (SPACE, "evaluation.val_fraction: {linear: [0.1, 0.2]}", "is not to be searched: it is how trials are compared"),
    (
        SPACE,
        "curation.leaks.threshold: {linear: [0.1, 0.2]}",
        "space.curation.leaks.threshold: the base has no such field",
    ),
    (
        "when: {objective.teacher.centering",
        "when: {objective.teacher.centring",
        "centring is no field of the space that stands before it; did you mean objective.teacher.centering?",
    ),
    ("centering: ema}", "centering: emma}", "when: objective.teacher.centering is never 'emma'"),
    ("val/knn", "test/knn", "x.yaml:9: metrics test/knn: nothing that chooses may see test"),
    ("val/knn", "val/knm", "nobody produces it; did you mean val/knn?"),
    ("val/knn", "accuracy", "nobody produces it; there are val/knn, val/linear"),
    (SPACE, "optim.batch: {integers: [16, 64]}", "at 17: optim.batch 17 is no multiple of objective.koleo.group 16"),
    ("maximize", "maximise", "'maximise' is none of maximize, minimize; did you mean maximize?"),
    ("{trials: 12}", "{}", "budget: wants at least one of trials, images, hours"),
    ("{trials: 12}", "{trials: 0}", "budget.trials: 0 is out of range"),
    ("budget:", "sampler: tpee\nbudget:", "sampler.kind: 'tpee' is none of tpe, random, grid, gp; did you mean tpe?"),
    ("budget:", "pruner: wilcoxon\nbudget:", "pruner wilcoxon can tell nothing from fewer than 5 seeds"),
    ("budget:", "pruner: asha\nseeds: [0, 1]\nbudget:", "pruner asha compares runs of one seed"),
    ("{val/knn: maximize}", "{val/knn: maximize, cost/flops: minimize}\npruner: asha", "the search has several"),
    ("{val/knn: maximize}", "{val/linear: maximize}\npruner: asha", "val/linear is not"),
    ("budget:", "sampler: grid\nbudget:", "sampler grid takes neither enqueue nor transfer nor conditional fields"),
    (
        "budget:",
        "enqueue: [{optim.lrr: 1e-3}]\nbudget:",
        "enqueue.0.optim.lrr: is no field of the space; did you mean optim.lr?",
    ),
    ("budget:", "enqueue: [{optim.lr: 1.0}]\nbudget:", "enqueue.0.optim.lr: 1.0 lies outside the space"),
    ("base: base.yaml", "base: bass.yaml", "x.yaml:2: base: there is no file bass.yaml; did you mean base.yaml?"),
    ("question: Which?", "questions: Which?", "x.yaml:1: questions: no such field; did you mean question?"),
]


@pytest.mark.parametrize(("old", "new", "says"), MISTAKES)
def test_a_mistake_is_one_line_with_its_place(old: str, new: str, says: str) -> None:
    said = complaint(old, new)
    assert says in said
    assert said.startswith("x.yaml:")
    assert len(said.splitlines()) == 1


def test_an_empty_space_is_said() -> None:
    text = SEARCH.split("space:")[0] + "space: {}\nmetrics: {val/knn: maximize}\nbudget: {trials: 1}\n"
    with pytest.raises(SpecError, match=r"x.yaml:3: space: is empty"):
        loaded(text)


def test_a_base_outside_of_the_space_cannot_be_enqueued() -> None:
    text = SEARCH.replace("[1e-5, 1e-2]", "[1e-5, 1e-4]") + "enqueue: [base]\n"
    with pytest.raises(
        SpecError, match=r"x.yaml:11: enqueue.0: the base lies outside the space: its optim.lr is 0.001"
    ):
        loaded(text)


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(1e-9, 1e-3),
    factor=st.floats(1.001, 1e3),
    integers=st.tuples(st.integers(0, 20), st.integers(21, 10**6)),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
)
def test_a_search_survives_being_written(
    low: float, factor: float, integers: tuple[int, int], seeds: list[int]
) -> None:
    space: dict[str, Any] = {
        "optim.lr": {"log": [low, low * factor]},
        "objective.teacher.temperature_warmup_steps": {"integers": integers},
        "objective.ibot.masks.ratio": {"choices": [[0.1, 0.5], [0.2, 0.2]]},
    }
    plain = {"name": "x", "base": {}, "space": space, "metrics": {"val/knn": "maximize"}, "budget": {"trials": 3}}
    search = SearchSpec.model_validate_json(json.dumps(plain | {"seeds": seeds}))
    again = SearchSpec.model_validate_json(search.model_dump_json())
    assert (again, search_id(again)) == (search, search_id(search))


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()) if GOLDEN.exists() else ["missing"])
def test_old_searches_go_on(name: str) -> None:
    """A storage knows its search by this id, and its trials' runs by theirs."""
    golden = json.loads(GOLDEN.read_text())[name]
    search = SearchSpec.model_validate_json(json.dumps(golden["search"]))
    assert search_id(search) == golden["id"]
    assert [each.run for each in runs_at(search, golden["point"])] == golden["runs"]


def _write_golden() -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for file in sorted((ROOT / "experiments").glob("search_*.yaml")):
        search = load_search(file)
        point = base_point(search) | {next(iter(search.space)): next(iter(search.space.values())).examples()[0]}
        runs = [each.run for each in runs_at(search, point)]
        plain = search.model_dump(mode="json")
        golden.setdefault(file.stem, {"id": search_id(search), "point": point, "runs": runs, "search": plain})
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    _write_golden()
