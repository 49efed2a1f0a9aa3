"""Studies whose arms are tuned: what each search is, what comes of it, and that every mistake is a line with its place."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov2lab.spec.load import SpecError, load_study
from dinov2lab.spec.points import runs_at, spec_at
from dinov2lab.spec.study import TUNING, Found, Place, Study, Tune, expand
from dinov2lab.spec.tuning import searches, tuned

GUIDE = Path(__file__).parent.parent.parent / "docs" / "searches.md"
BASE = """\
optim: {steps: 40, batch: 32, warmup_steps: 4, lr: 1e-3}
objective: {koleo: {group: 16}, teacher: {temperature_warmup_steps: 10}}
"""
SEARCH = """\
base: base.yaml
space:
  optim.lr: {log: [1e-5, 1e-2]}
metrics: {val/knn: maximize}
budget: {trials: 12}
seeds: [0, 1]
enqueue: [base]
"""
STUDY = """\
question: Does KoLeo help?
base: base.yaml
factor: objective.koleo
baseline: with
seeds: [0, 1, 2]
metrics: [test/knn]
decide: {metric: test/knn}
arms: {with: {}, without: {objective.koleo.weight: 0.0}}
tune:
  per_arm: s.yaml
  budget: {trials: 5}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "s.yaml").write_text(SEARCH)
    (tmp_path / "x.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(rate: float) -> Found:
    point = {"optim.lr": rate}
    return Found(search="s", seeds=(TUNING,), trial=1, point=point, value=0.5, points=5, images=100)


def test_each_arm_has_the_same_search_on_seeds_of_its_own() -> None:
    study = load_study("x.yaml")
    assert study.untuned
    of = searches(study)
    assert {str(place): search.name for place, search in of.items()} == {"with": "x.with", "without": "x.without"}
    assert [search.base for search in of.values()] == [arm.spec for arm in study.arms]
    alike = [search.model_dump(exclude={"name", "question", "base", "seeds"}) for search in of.values()]
    assert alike[0] == alike[1]
    assert alike[0]["budget"]["trials"] == 5
    seeds = [seed for search in of.values() for seed in search.seeds]
    assert len(set(seeds) | set(study.seeds)) == 2 * 2 + 3


def test_a_tuned_study_runs_each_arm_at_its_point_and_no_run_of_a_search() -> None:
    study = load_study("x.yaml")
    done = tuned(study, {"with": found(2e-3), "without": found(3e-4)})
    assert not done.untuned
    rates = {(cell.arm, cell.spec.optim.lr, cell.spec.objective.koleo.weight) for cell in expand(done)}
    assert rates == {("with", 2e-3, 0.1), ("without", 3e-4, 0.0)}
    assert done.factor == ("objective.koleo", "optim.lr")
    of = searches(study)
    trials = {
        run.run
        for arm, rate in (("with", 2e-3), ("without", 3e-4))
        for run in runs_at(of[Place(arm)], {"optim.lr": rate})
    }
    assert trials.isdisjoint(cell.run for cell in expand(done))
    assert Study.model_validate_json(done.model_dump_json()) == done


def test_a_tuned_study_may_get_more_seeds() -> None:
    done = tuned(load_study("x.yaml"), {"with": found(2e-3), "without": found(3e-4)})
    more = done.with_more_seeds(2)
    assert (more.seeds, more.tune) == ((0, 1, 2, 3, 4), done.tune)


PER_SEED = STUDY.replace("per_arm: s.yaml", "per_arm: s.yaml\n  per: seed")


def found_for(study: Study) -> dict[str, Found]:
    """Another rate for each arm and seed."""
    return {str(place): found(1e-4 * (1 + at)) for at, place in enumerate(study.places)}


def test_tuned_for_each_seed_an_arm_has_a_search_for_each_on_seeds_and_with_draws_of_its_own() -> None:
    Path("x.yaml").write_text(PER_SEED)
    study = load_study("x.yaml")
    of = searches(study)
    assert [search.name for search in of.values()] == [
        f"x.{arm}.{seed}" for seed in (0, 1, 2) for arm in ("with", "without")
    ]
    assert [str(place) for place in of] == [search.name.removeprefix("x.") for search in of.values()]
    seeds = [seed for search in of.values() for seed in search.seeds]
    assert len({*seeds, *study.seeds}) == 6 * 2 + 3
    draws = [(place.seed, search.sampler.seed) for place, search in of.items()]
    assert len(set(draws)) == len({drawn for _, drawn in draws}) == 3  # one for each seed, the same for both arms
    alike = [search.model_dump(exclude={"name", "question", "base", "seeds", "sampler"}) for search in of.values()]
    assert all(each == alike[0] for each in alike)
    done = tuned(study, found_for(study))
    assert not done.untuned
    cells = [(cell.seed, cell.arm, round(cell.spec.optim.lr * 1e4)) for cell in expand(done)]
    assert cells == [(place.seed, place.arm, 1 + at) for at, place in enumerate(study.places)]
    assert Study.model_validate_json(done.model_dump_json()) == done


def test_tuned_for_each_seed_more_seeds_are_tuned_for_first() -> None:
    Path("x.yaml").write_text(PER_SEED)
    done = tuned(load_study("x.yaml"), found_for(load_study("x.yaml")))
    more = done.with_more_seeds(2)
    assert more.untuned
    assert [search.base for search in searches(more).values()][:6] == [
        search.base for search in searches(done).values()
    ]
    whole = tuned(more, found_for(more))
    assert not whole.untuned
    assert len(expand(whole)) == 2 * 5
    assert whole.before_its_looks() == done


def test_a_study_that_is_tuned_once_for_all_seeds_is_the_one_that_it_was_before_there_was_a_choice() -> None:
    study = load_study("x.yaml")
    assert study.tune
    assert study.tune.per == "arm"
    with_seeds = {str(place): search.seeds[0] for place, search in searches(study).items()}
    assert with_seeds == {"with": 1_000_000 + 1000 * 631_886, "without": 1_000_000 + 1000 * 888_417}


@given(st.lists(st.text("abc123_.", min_size=1, max_size=8), min_size=2, max_size=6, unique=True))
def test_the_seeds_of_an_arm_are_its_own(names: list[str]) -> None:
    search = {"name": "s", "base": {}, "space": {"optim.lr": {"log": [0.1, 1.0]}}, "metrics": {"val/knn": "maximize"}}
    plain = {"per_arm": search | {"budget": {"trials": 1}, "seeds": list(range(7))}, "budget": {"trials": 1}}
    tune = Tune.model_validate_json(json.dumps(plain))
    for ats in ((None,), (0, 3)):  # once for all seeds of the study, or for each
        seeds = [seed for name in names for at in ats for seed in tune.seeds(Place(name, at))]
        assert min(seeds) >= TUNING
        assert len(set(seeds)) == len(seeds)


def test_the_budget_is_the_searchs_where_the_study_names_none() -> None:
    Path("x.yaml").write_text(STUDY.replace("  budget: {trials: 5}\n", ""))
    study = load_study("x.yaml")
    assert study.tune
    assert study.tune.budget.trials == 12


def test_overrides_reach_into_it() -> None:
    study = load_study("x.yaml", ["tune.budget.trials=3"])
    assert study.tune
    assert study.tune.budget.trials == 3
    assert study.name != "x"
    with pytest.raises(SpecError, match="changes nothing"):
        load_study("x.yaml", ["tune.budget.trials=5"])


def test_equal_passes_are_those_of_the_arm() -> None:
    """A search trains its arm as long as the study will."""
    stage = "curation.stages: [{stage: sample, images: %d}]"
    text = STUDY.replace("factor: objective.koleo", "factor: curation.stages\nequal: passes")
    text = text.replace(
        "arms: {with: {}, without: {objective.koleo.weight: 0.0}}",
        f"arms:\n  with: {{{stage % 1000}}}\n  without: {{{stage % 2000}}}",
    )
    Path("x.yaml").write_text(text)
    study = load_study("x.yaml")
    of = searches(study)
    assert [spec_at(search, {}).optim.steps for search in of.values()] == [40, 80]
    done = tuned(study, {"with": found(2e-3), "without": found(3e-4)})
    assert [cell.spec.optim.steps for cell in expand(done)] == [40, 80] * 3


def test_the_guides_line_is_that_of_a_study() -> None:
    (line,) = [line for line in GUIDE.read_text().splitlines() if line.startswith("tune:")]
    Path("x.yaml").write_text(
        STUDY[: STUDY.index("tune:")] + line.replace("../experiments/search_rates.yaml", "s.yaml")
    )
    study = load_study("x.yaml")
    assert study.tune
    assert study.tune.budget.trials == 12


MISTAKES = [
    ("per_arm: s.yaml", "per_arm: t.yaml", "x.yaml:10: tune.per_arm: there is no file t.yaml"),
    (
        "per_arm: s.yaml",
        "per_arm: s.yaml\n  per_arms: s.yaml",
        "x.yaml:11: tune.per_arms: no such field; did you mean tune.per_arm?",
    ),
    ("  per_arm: s.yaml\n", "", "x.yaml:9: tune.per_arm: missing required key"),
    ("{trials: 5}", "{trial: 5}", "x.yaml:11: tune.budget.trial: no such field; did you mean tune.budget.trials?"),
    ("{trials: 5}", "{}", "x.yaml:11: tune.budget: wants at least one of trials, images, hours"),
    ("{trials: 5}", "{hours: 1.0}", "x.yaml:11: tune.budget: hours are not the same for every arm"),
    ("{trials: 5}", "{trials: 5}\n  found: {}", "x.yaml:12: tune.found: no such field"),
    ("factor: objective.koleo", "factor: [objective.koleo, optim]", "varies optim.lr, which is what arms differ in"),
    ("[0, 1, 2]", "[0, 1000000]", "x.yaml:5: seeds 1000000: from 1000000 on seeds are those that arms are tuned on"),
    ("tune:\n", "equal: images\ntune:\n", "holds steps equal where the study holds images; it wants equal: images"),
    ("per_arm: s.yaml", "per_arm: s.yaml\n  per: seeds", "x.yaml:11: tune.per: "),
]
RANGE = "optim.lr: {log: [1e-5, 1e-2]}"
IN_THE_SEARCH = [
    (
        RANGE,
        "objective.koleo.weight: {log: [0.01, 1.0]}",
        "x.yaml:10: tune.per_arm: the search s varies objective.koleo.weight",
    ),
    (RANGE, "objective: {koleo: {weight: {log: [0.01, 1.0]}}}", "varies objective.koleo.weight"),
    ("val/knn", "test/knn", "s.yaml:4: metrics test/knn: nothing that chooses may see test"),
    ("val/knn: maximize", "val/knn: maximize, cost/flops: minimize", "with several metrics there is no one best point"),
    ("optim.lr", "optim.lrr", "s.yaml:3: space.optim.lrr: no such field; did you mean optim.lr?"),
    ("[1e-5, 1e-2]", "[1e-2, 1e-5]", "s.yaml:3: space.optim.lr: log: the lower bound 0.01 is not below 1e-05"),
    ("enqueue: [base]", "earlier: [x]", "takes points from elsewhere (earlier)"),
    ("enqueue: [base]", "transfer: [x]", "takes points from elsewhere (transfer)"),
    (RANGE, "optim.steps: {integers: [30, 50]}", "but the study holds steps equal"),
]


@pytest.mark.parametrize(("old", "new", "says"), MISTAKES)
def test_a_mistake_is_one_line_with_its_place(old: str, new: str, says: str) -> None:
    assert old in STUDY
    Path("x.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(SpecError) as error:
        load_study("x.yaml")
    assert says in str(error.value)
    assert str(error.value).startswith("x.yaml:")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("old", "new", "says"), IN_THE_SEARCH)
def test_a_mistake_in_its_search_is_one_line_with_its_place(old: str, new: str, says: str) -> None:
    assert old in SEARCH
    Path("s.yaml").write_text(SEARCH.replace(old, new))
    with pytest.raises(SpecError) as error:
        load_study("x.yaml")
    assert says in str(error.value)
    assert str(error.value).startswith(("x.yaml:10", "s.yaml:"))
    assert len(str(error.value).splitlines()) == 1


def test_an_arm_that_its_search_does_not_fit_is_named() -> None:
    """The search is right for its own base, and not for that arm."""
    Path("s.yaml").write_text(SEARCH.replace("optim.lr: {log: [1e-5, 1e-2]}", "optim.batch: {choices: [32, 64]}"))
    Path("x.yaml").write_text(
        STUDY.replace("without: {objective.koleo.weight: 0.0}", "without: {objective.koleo.group: 32}").replace(
            "tune:\n", "equal: images\ntune:\n"
        )
    )
    text = Path("s.yaml").read_text() + "equal: images\n"
    Path("s.yaml").write_text(text.replace("[32, 64]", "[16, 32]"))
    with pytest.raises(SpecError) as error:
        load_study("x.yaml")
    assert "at 16: optim.batch 16 is no multiple of objective.koleo.group 32" in str(error.value)
    assert "(in the arm without, x.yaml:" in str(error.value)
