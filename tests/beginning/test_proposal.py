"""From what was found to a recipe and a first study: they load, they fit, and each choice has a reason."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from looked import CORES, GPU, labelled, looked

from dinov2lab.beginning.layout import Layout
from dinov2lab.beginning.machine import Machine
from dinov2lab.beginning.proposal import Proposal, as_json, commands, lines
from dinov2lab.beginning.recipe import LEARNT, PASSES, Recipe, propose
from dinov2lab.beginning.study import first_study
from dinov2lab.beginning.survey import Survey
from dinov2lab.beginning.workspace import begin
from dinov2lab.lab.speed import Speed
from dinov2lab.spec.cost import flops_of_image
from dinov2lab.spec.load import load_recipe, load_study
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import expand

CORE, CARD = 4.6e10, 4e13  # FLOPs a second: what cifar10.yaml was trained at, and a guess


def proposed(found: Survey, machine: Machine = CORES, hours: float = 1.0, flops: float = CORE) -> Recipe:
    return propose(found, machine, hours, lambda spec: Speed(flops / flops_of_image(spec)))


def whole(found: Survey, machine: Machine = CORES, hours: float = 1.0, flops: float = CORE) -> Proposal:
    return Proposal(found, machine, proposed(found, machine, hours, flops), first_study(found))


def reason(recipe: Recipe, field: str) -> str:
    return next(choice.why for choice in recipe.choices if choice.field == field)


def test_labels_and_a_test_set_are_tested_on_and_kept_out_of_training() -> None:
    spec = proposed(looked()).spec
    assert (spec.data.train, spec.evaluation.memory, spec.evaluation.test) == (
        *("folder:images/train", "folder:images/train"),
        "folder:images/test",
    )
    assert spec.curation is not None
    assert spec.curation.leaks is not None
    assert spec.curation.leaks.against == ("folder:images/test",)
    assert first_study(looked()).metric == "test/knn"


def test_labels_alone_leave_val_which_is_said_to_flatter() -> None:
    found = looked(labelled(test=None, train="", tested=0))
    recipe = proposed(found)
    assert (recipe.spec.evaluation.memory, recipe.spec.evaluation.test) == ("folder:images", None)
    assert any("val is chosen on" in note for note in recipe.notes)
    study = first_study(found)
    assert study.metric == "val/knn"
    assert "There is no test set" in study.text


def test_without_labels_there_is_health_which_says_nothing_of_worth() -> None:
    found = looked(Layout(images=50_000))
    recipe = proposed(found)
    assert recipe.spec.evaluation.sources() == ()
    assert "nothing of their worth" in reason(recipe, "evaluation.memory")
    study = first_study(found)
    assert study.metric == "health/rankme"
    assert "nothing of which are better" in study.text


@pytest.mark.parametrize(("side", "px"), [(20, 32), (32, 32), (60, 32), (64, 64), (800, 96)])
def test_views_are_no_larger_than_the_images_unless_these_are_tiny(side: int, px: int) -> None:
    assert proposed(looked(side=side), hours=500).spec.views.global_px == px


def test_more_hours_are_a_larger_network_only_once_it_sees_enough_images() -> None:
    flops = [flops_of_image(proposed(looked(), hours=hours).spec) for hours in (0.1, 1, 2, 10, 100)]
    assert flops == sorted(flops)
    assert flops[0] < flops[-1]
    for hours in (1, 2, 10):
        recipe = proposed(looked(), hours=hours)
        seen = recipe.spec.optim.steps * recipe.spec.optim.batch
        assert seen > 0.9 * LEARNT
        assert 0.85 * hours < recipe.hours <= hours
    assert f"{LEARNT:,} are wanted" in reason(proposed(looked()), "views.global_px")


def test_too_few_hours_are_told_with_how_many_would_do() -> None:
    (note,) = (note for note in proposed(looked(), hours=0.1).notes if "--hours" in note)
    wanted = float(note.partition("--hours ")[2].split()[0])
    assert not [each for each in proposed(looked(), hours=wanted * 1.1).notes if "--hours" in each]


def test_few_images_are_seen_no_more_than_a_thousand_times_and_the_way_round_is_told() -> None:
    found = looked(Layout(images=300), sampled=300)
    recipe = proposed(found, hours=50)
    assert recipe.spec.optim.steps * recipe.spec.optim.batch <= PASSES * 300
    assert recipe.spec.model.size == "pico"
    assert any("continued_pretraining.yaml" in note for note in recipe.notes)
    short = proposed(found, hours=0.05).notes
    assert any("more hours do not help" in note for note in short)
    assert not any("--hours" in note for note in short)
    assert f"no more than {PASSES} passes" in reason(recipe, "optim.steps")


def test_on_a_gpu_the_recipe_is_that_for_ones_own_images() -> None:
    recipe = proposed(looked(), GPU, hours=2, flops=CARD)
    assert (recipe.spec.model.size, recipe.spec.views.global_px, recipe.spec.views.local_px) == ("small", 224, 96)
    assert "base: own_images.yaml" in recipe.text
    small = proposed(looked(side=40), GPU, hours=2, flops=CARD)
    assert (small.spec.views.global_px, small.spec.model.patch) == (32, 4)
    assert "base: cifar10_gpu.yaml" in small.text


def test_copies_are_the_first_question_where_there_are_any_else_the_size_of_the_data() -> None:
    copied = first_study(looked(copied=16, pairs=8))
    assert (copied.name, list(copied.arms)) == ("mine_copies", ["all", "deduplicated"])
    none = first_study(looked())
    assert (none.name, list(none.arms)) == ("mine_data_size", ["images_5000", "images_15000", "all"])
    few = first_study(looked(labelled(images=200), sampled=200, copied=1))
    assert list(few.arms) == ["images_60", "all"]


def test_where_decoding_takes_the_time_smaller_copies_are_advised() -> None:
    slow = propose(looked(side=3000), CORES, 1, lambda spec: Speed(50.0, decoding=0.9))
    (note,) = (note for note in slow.notes if "decoding" in note)
    assert "90 % of the time" in note
    assert "copies with a shorter side of 256 px would train at least 10 times as fast" in note
    assert not looked(side=3000).decoded_once
    assert looked(side=100).decoded_once
    assert not any("decoding" in each for each in proposed(looked(side=3000)).notes)


def test_looks_at_many_labelled_images_are_few() -> None:
    assert proposed(looked(labelled(images=2000), sampled=2000)).spec.evaluation.every < 200_000
    assert proposed(looked(labelled(images=500_000))).spec.evaluation.every == 1_000_000


def test_a_processor_that_does_not_multiply_in_bf16_is_not_asked_to() -> None:
    assert proposed(looked(), CORES._replace(bf16=False)).spec.optim.precision == "fp32"


def test_runs_at_a_time_are_as_many_as_cores_and_memory_allow() -> None:
    assert (CORES.jobs, CORES._replace(memory_gib=3.0).jobs, CORES._replace(memory_gib=None).jobs) == (2, 1, 2)
    assert GPU.jobs == 1
    scarce = Proposal(looked(), CORES._replace(memory_gib=3.0), proposed(looked()), first_study(looked()))
    assert commands(scarce, Path("my lab"))[0] == "cd 'my lab'"
    assert commands(scarce, Path("my lab"))[-1] == "dinov2lab run mine_data_size --jobs 1"


def test_what_is_said_has_every_reason_and_the_commands_last() -> None:
    proposal = whole(looked(unreadable={"empty": 3}, copied=16, pairs=8, exact=2))
    said = list(lines(proposal, Path("lab")))
    assert all(any(choice.why in line for line in said) for choice in proposal.recipe.choices)
    assert said[-6:] == [f"  {command}" for command in commands(proposal, Path("lab"))]
    assert any("3 empty" in line for line in said)
    answer = json.loads(json.dumps(as_json(proposal, Path("lab"))))
    assert answer["images"]["unreadable"] == {"empty": 3}
    assert answer["commands"] == commands(proposal, Path("lab"))
    assert {choice["field"] for choice in answer["recipe"]["choices"]} >= {"optim.steps", "model.size", "data.train"}


@st.composite
def folders(draw: st.DrawFn) -> Survey:
    images = draw(st.integers(128, 3_000_000))
    sampled = min(images, draw(st.integers(128, 2000)))
    pairs, bad = draw(st.integers(0, 500)), draw(st.integers(0, sampled - 100))
    layout = draw(
        st.sampled_from([Layout(), labelled(test=None, train=""), labelled(), Layout("a folder/Ünder scores_1")])
    )
    known = {"sampled": sampled, "pairs": pairs, "copied": min(2 * pairs, sampled - bad), "unreadable": {"empty": bad}}
    return looked(layout._replace(images=images), draw(st.integers(1, 5000)), **known)


@given(folders(), st.sampled_from([CORES, GPU]), st.floats(0.01, 1000), st.floats(1e7, 1e15))
@settings(max_examples=25, deadline=None)
def test_whatever_is_found_recipe_and_study_load_and_say_why(
    found: Survey, machine: Machine, hours: float, flops: float
) -> None:
    proposal = whole(found, machine, hours, flops)
    spec, study = proposal.recipe.spec, proposal.study
    assert spec.optim.warmup_steps <= spec.optim.steps
    assert spec.views.local_px <= spec.views.global_px
    for choice in proposal.recipe.choices:
        assert not choice.why or f"# {choice.why}\n" in proposal.recipe.text
    assert len(study.arms) >= 2
    assert 0 <= found.copied_share <= found.hidden_share <= 1


@pytest.mark.parametrize("found", [looked(), looked(copied=16, pairs=8), looked(Layout(images=300), sampled=300)])
def test_in_the_workspace_they_are_files_like_any_other(found: Survey, tmp_path: Path) -> None:
    proposal = whole(found)
    (tmp_path / "photos").mkdir()
    begin(tmp_path / "lab", proposal.files, tmp_path / "photos")
    assert load_recipe(tmp_path / "lab/experiments/mine.yaml") == proposal.recipe.spec
    study = load_study(tmp_path / f"lab/ablations/{proposal.study.name}.yaml")
    assert len(expand(study)) == proposal.study.runs
    assert [arm.name for arm in study.arms] == list(proposal.study.arms)
    assert study.decide.rule == "blocked"
    assert (tmp_path / "lab/images").resolve() == tmp_path / "photos"


def test_a_spec_is_all_that_is_timed() -> None:
    timed: list[RunSpec] = []

    def speed(spec: RunSpec) -> Speed:
        timed.append(spec)
        return Speed(1000.0)

    propose(looked(), CORES, 0.01, speed)
    assert [(spec.model.size, spec.views.global_px) for spec in timed] == [("pico", 32), ("pico", 64)]
