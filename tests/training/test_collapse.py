"""Collapses are told apart and named in time; healthy runs, and the beginnings of all, are left alone."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from short_run import SPEC, pictures, with_

from dinov2lab.spec.resources import Resources
from dinov2lab.store.result import RunFolder
from dinov2lab.training import checkpoint, step
from dinov2lab.training.collapse import Watch, kind
from dinov2lab.training.loop import train
from dinov2lab.training.step import Diverged, State

LONG = with_(SPEC, {"optim.steps": 1000, "optim.warmup_steps": 30, "optim.freeze_last_layer_steps": 50})
MOST = math.log(16)


def values(loss: float, entropy: float, spread: float) -> dict[str, float]:
    """In shares of ln K."""
    terms = {"loss/dino_global": 0.2 * loss * MOST, "loss/dino_local": 0.8 * loss * MOST}
    return terms | {"student/entropy": entropy * MOST, "student/spread": spread * MOST}


UNIFORM, CONSTANT, HEALTHY = values(1.0, 1.0, 1.0), values(0.01, 0.0, 0.01), values(0.6, 0.4, 0.95)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (UNIFORM, 1),
        (CONSTANT, 2),
        (HEALTHY, 0),
        (values(1.02, 0.97, 0.999), 0),  # wrong, but not flat
        (values(0.99, 0.999, 0.999), 0),  # barely begun: the loss has left ln K
        (values(0.2, 0.02, 0.99), 0),  # sure of each image, and of each something else
        (values(1.3, 0.0, 0.01), 2),
    ],
)
def test_kinds_are_told_apart_by_loss_and_entropies(measured, expected):
    assert kind(measured, SPEC) == expected


def test_without_dino_the_patches_loss_tells():
    spec = with_(SPEC, {"objective.dino.weight": 0.0})
    assert kind({"loss/ibot": 0.5 * MOST}, spec) == 1  # half of the crops are masked
    assert kind({"loss/ibot": 0.45 * MOST}, spec) == 0
    assert kind({"loss/ibot": 0.5 * MOST}, with_(spec, {"objective.ibot.tokens": "all"})) == 0


def watched(tmp_path: Path, course: dict[int, dict[str, float]], stops: tuple[int, ...] = ()) -> tuple[list[Any], str]:
    """What is written down, and the verdict; `course`: from which step on what is measured."""
    folder, state = RunFolder(tmp_path), SimpleNamespace(step=0, looks=())
    told: list[Any] = []
    watch = Watch(LONG, state, folder)
    for number in range(1, 1001):
        state.step = number
        now = course[max(start for start in course if start <= number)]
        if row := watch.see({name: torch.tensor(value) for name, value in now.items()}):
            told.append((number, row["health/collapse"]))
            with folder.metrics.open("a") as file:
                file.write(json.dumps({"step": number, **row}) + "\n")
        if number in stops:
            watch = Watch(LONG, state, folder)
    return told, watch.verdict()


@pytest.mark.parametrize(("collapse", "number", "name"), [(UNIFORM, 1, "uniform"), (CONSTANT, 2, "constant")])
def test_a_collapse_from_the_start_is_named_within_200_steps_of_the_grace_period(tmp_path, collapse, number, name):
    ((when, what),), verdict = watched(tmp_path, {0: collapse})
    assert 250 < when <= 450
    assert what == number
    assert verdict == f"collapsed ({name}) at step {when}"


def test_nothing_is_said_of_a_run_that_leaves_ln_k_in_time(tmp_path):
    assert watched(tmp_path, {0: UNIFORM, 300: HEALTHY}) == ([], "healthy")


def test_a_moment_is_no_collapse(tmp_path):
    assert watched(tmp_path, {0: HEALTHY, 400: CONSTANT, 480: HEALTHY}) == ([], "healthy")


def test_a_late_collapse_and_a_recovery_are_both_told(tmp_path):
    told, verdict = watched(tmp_path, {0: HEALTHY, 400: UNIFORM, 700: HEALTHY})
    assert [what for _, what in told] == [1, 0]
    assert verdict == f"recovered at step {told[1][0]} from a collapse (uniform)"


@pytest.mark.parametrize("stops", [(305,), (100, 270, 300, 500)])
def test_a_resume_says_the_same(tmp_path, stops):
    (tmp_path / "other").mkdir()
    course = {0: UNIFORM, 600: HEALTHY}
    assert watched(tmp_path, course, stops) == watched(tmp_path / "other", course)


def test_looks_are_in_the_checkpoint(tmp_path):
    state = State(SPEC, step.Key(0), torch.device("cpu"))
    state.looks = (0, 1, 2)
    with checkpoint.writing(tmp_path / "checkpoint.pt") as writer:
        writer.save(state, 0.0)
    other = State(SPEC, step.Key(0), torch.device("cpu"))
    checkpoint.restore(other, tmp_path / "checkpoint.pt")
    assert other.looks == (0, 1, 2)


def test_a_run_that_blows_up_writes_down_its_images_and_keeps_its_last_checkpoint(tmp_path, monkeypatch):
    def blown(state: State, *rest: Any) -> Any:
        if state.step == 5:
            raise Diverged("the loss is nan at step 5")
        return step.train_step(state, *rest)

    monkeypatch.setattr("dinov2lab.training.loop.train_step", blown)
    shown, folder = pictures(), RunFolder(tmp_path)
    with pytest.raises(Diverged):
        train(SPEC, shown, folder, Resources(checkpoint_seconds=1e-9), torch.device("cpu"), lambda teacher, student: {})
    told = json.loads(folder.diverged.read_text())
    assert (told["step"], told["reason"]) == (5, "the loss is nan at step 5")
    assert len(told["samples"]) == SPEC.optim.batch
    assert set(told["samples"]) <= {shown.name(index) for index in range(len(shown))}
    assert checkpoint.load(folder.checkpoint)["step"] == 5


SMALL = with_(
    SPEC,
    {
        "optim.steps": 320,
        "optim.warmup_steps": 10,
        "optim.lr": 2e-3,
        "views.local_crops": 0,
        "views.global_px": 16,
        "objective.koleo.weight": 0.0,
        "objective.ibot.weight": 0.0,
        "evaluation.every": 10**9,
        "objective.teacher.centering": "ema",
        "objective.teacher.momentum": 0.9,
        "objective.teacher.temperature_warmup_steps": 0,
    },
)
PLANTED = {
    "constant": {"temperature_start": 0.02, "temperature": 0.02, "centre_momentum": 1.0},  # sharpened, never centred
    "uniform": {"temperature_start": 1.0, "temperature": 1.0},  # centred, never sharpened
}


@pytest.mark.system
@pytest.mark.parametrize("planted", PLANTED)
def test_runs_without_one_of_the_two_safeguards_collapse_and_are_told_apart(planted: str, tmp_path: Path) -> None:
    spec = with_(SMALL, {f"objective.teacher.{name}": value for name, value in PLANTED[planted].items()})
    trained = train(
        spec, pictures(), RunFolder(tmp_path), Resources(), torch.device("cpu"), lambda teacher, student: {}
    )
    assert trained is not None
    assert trained.verdict == f"collapsed ({planted}) at step 310"
