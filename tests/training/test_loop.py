"""A run that is stopped or killed goes on and ends with the same numbers, bit for bit."""

import errno
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from short_run import SPEC, pictures, with_
from torch import Tensor

from dinov2lab.data.loader import Order
from dinov2lab.draws import Key
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.result import RunFolder
from dinov2lab.training import checkpoint
from dinov2lab.training.loop import MetricsLog, Trained, make_batch, train
from dinov2lab.training.step import State

CPU = torch.device("cpu")
EMA = with_(SPEC, {"objective.teacher.centering": "ema"})  # whose centres are carried from step to step as well
STEPS = EMA.optim.steps
PICTURES = pictures()
SELDOM, ALWAYS = Resources(checkpoint_seconds=1e9), Resources(checkpoint_seconds=1e-9)


class Killed(Exception):
    """What a kill is to a test: nothing after it runs."""


def probe(teacher: Backbone, student: Backbone) -> dict[str, float]:
    return {"health/probe": float(sum(parameter.double().sum() for parameter in teacher.parameters()))}


def run(
    folder: Path,
    spec: RunSpec = EMA,
    resources: Resources = SELDOM,
    look: Callable[[Backbone, Backbone], dict[str, float]] = probe,
    stop: Callable[[], bool] = lambda: False,
) -> Trained | None:
    folder.mkdir(exist_ok=True)
    return train(spec, PICTURES, RunFolder(folder), resources, CPU, look, stop)


def after(steps: int) -> Callable[[], bool]:
    """A stop that is asked for at the end of that many steps."""
    asked = iter(range(1, steps + 1))
    return lambda: next(asked) == steps


def rows(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what differs from run to run by right."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in row.items() if name not in ("time", "speed/images_per_second")} for row in found]


def state(folder: Path) -> dict[str, object]:
    content = checkpoint.load(folder / "checkpoint.pt")
    return {name: value for name, value in content.items() if name != "seconds"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run(folder) is not None
    return folder


def assert_same(folder: Path, other: Path) -> None:
    torch.testing.assert_close(state(folder), state(other), rtol=0, atol=0)
    assert rows(folder) == rows(other)


def test_a_run_repeats_itself(undisturbed: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    assert_same(tmp_path / "again", undisturbed)
    run(tmp_path / "other", with_(EMA, {"replicate": 1}))
    assert rows(tmp_path / "other") != rows(undisturbed)


def test_every_step_has_its_row_and_every_look_its_value(undisturbed: Path) -> None:
    found = rows(undisturbed)
    assert [(row["step"], row["images"]) for row in found] == [(step, 8 * step) for step in range(1, STEPS + 1)]
    assert [row["step"] for row in found if "health/probe" in row] == [3, 6, 9, 12]  # every 24 images
    assert {name.partition("/")[0] for name in found[0]} == {
        *("step", "images", "loss", "optim", "teacher", "student", "gradient"),
    }
    assert found[0]["optim/lr"] == 0
    assert found[-1]["loss/total"] == pytest.approx(
        sum(found[-1][f"loss/{name}"] for name in ("dino_global", "dino_local", "ibot"))
        + 0.1 * found[-1]["loss/koleo"],
        rel=1e-5,
    )


def test_views_made_ahead_by_processes_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    ahead = Resources(checkpoint_seconds=1e9, workers=2)
    assert run(tmp_path / "run", resources=ahead, stop=after(4)) is None
    run(tmp_path / "run", resources=ahead)
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("stops", [[1], [11], [2, 3, 4]])
def test_a_stopped_run_goes_on_to_the_same_end(stops: list[int], undisturbed: Path, tmp_path: Path) -> None:
    for steps in stops:
        assert run(tmp_path / "run", stop=after(steps)) is None
    assert checkpoint.load(tmp_path / "run/checkpoint.pt")["step"] == sum(stops)
    trained = run(tmp_path / "run")
    assert_same(tmp_path / "run", undisturbed)
    assert trained is not None
    whole = checkpoint.load(undisturbed / "checkpoint.pt")["teacher"]
    for name, value in trained.backbone.state_dict().items():
        assert torch.equal(value, whole[f"backbone.{name}"])


def test_the_last_checkpoints_are_kept_and_each_goes_on_to_the_same_end(undisturbed: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", resources=Resources(checkpoint_seconds=1e-9, checkpoints=3))
    kept = sorted(file.name for file in (tmp_path / "run").glob("checkpoint*"))
    assert kept == ["checkpoint-00000010.pt", "checkpoint-00000011.pt", "checkpoint-00000012.pt", "checkpoint.pt"]
    (tmp_path / "older").mkdir()
    shutil.copy(tmp_path / "run/checkpoint-00000010.pt", tmp_path / "older/checkpoint.pt")
    shutil.copy(tmp_path / "run/metrics.jsonl", tmp_path / "older")
    run(tmp_path / "older")
    assert_same(tmp_path / "older", undisturbed)
    run(tmp_path / "run", with_(EMA, {"optim.steps": STEPS + 1}))
    assert [file.name for file in (tmp_path / "run").glob("checkpoint*")] == ["checkpoint.pt"]


def test_the_teacher_of_the_best_look_is_kept(tmp_path: Path) -> None:
    values, seen = iter([0.2, 0.4, 0.4, 0.3]), []

    def look(teacher: Backbone, student: Backbone) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in teacher.state_dict().items()})
        return {"val/knn": next(values)}

    assert run(tmp_path / "run", look=look, stop=after(7)) is None
    run(tmp_path / "run", look=look)
    torch.testing.assert_close(checkpoint.load(tmp_path / "run/best.pt"), seen[1], rtol=0, atol=0)


def test_a_checkpoint_is_of_its_step_though_it_is_written_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a disk so slow that the next steps are done before it has written the first byte."""
    state, written = State(SPEC, Key(0), CPU), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *words: (time.sleep(1), written(*words)))
    before = {name: value.clone() for name, value in state.student.state_dict().items()}
    with checkpoint.writing(tmp_path / "checkpoint.pt") as writer:
        began = time.monotonic()
        writer.save(state, 0.0)
        assert time.monotonic() - began < 1
        for parameter in state.student.parameters():
            parameter.data.add_(1.0)
    torch.testing.assert_close(checkpoint.load(tmp_path / "checkpoint.pt")["student"], before, rtol=0, atol=0)


def test_a_checkpoint_that_could_not_be_written_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.pt")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "run")


@pytest.mark.parametrize(("kill", "resources"), [(1, SELDOM), (3, ALWAYS)])
def test_a_killed_run_goes_on_and_writes_no_row_twice(
    kill: int, resources: Resources, undisturbed: Path, tmp_path: Path
) -> None:
    """Killed in its second look or later, after rows of metrics and perhaps checkpoints; then half a row more."""
    looks = iter(range(kill + 1))

    def last(teacher: Backbone, student: Backbone) -> dict[str, float]:
        if next(looks) == kill:
            raise Killed
        return probe(teacher, student)

    with pytest.raises(Killed):
        run(tmp_path / "run", resources=resources, look=last)
    written = rows(tmp_path / "run")
    assert len(written) == 3 * (kill + 1) - 1
    with (tmp_path / "run/metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "ima')
    run(tmp_path / "run")
    assert_same(tmp_path / "run", undisturbed)


def test_a_finished_run_is_not_trained_again(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()

    def never(backbone: Backbone) -> dict[str, float]:
        raise Killed

    assert run(tmp_path / "run", look=never) is not None
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_a_stop_at_the_last_step_is_an_end(tmp_path: Path) -> None:
    assert run(tmp_path / "run", stop=after(STEPS)) is not None


def test_seconds_add_up_over_resumes(tmp_path: Path) -> None:
    run(tmp_path / "run", stop=after(3))
    spent = checkpoint.load(tmp_path / "run/checkpoint.pt")["seconds"]
    trained = run(tmp_path / "run")
    assert trained is not None
    assert trained.seconds > spent > 0


def test_long_runs_write_some_hundred_rows(tmp_path: Path) -> None:
    tiny = {"views.local_crops": 0, "optim.batch": 2, "objective.koleo.group": 2, "optim.warmup_steps": 0}
    run(tmp_path / "run", with_(SPEC, {**tiny, "optim.steps": 500}), stop=after(21))
    assert [row["step"] for row in rows(tmp_path / "run") if "loss/total" in row] == list(range(2, 21, 2))


# The files


def test_a_half_last_line_is_dropped_and_the_rows_before_it_stay(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    MetricsLog(folder).write(4, 32, {"loss/total": 1.5})
    whole = folder.metrics.read_bytes()
    for half in (b"{", b'{"step": 5, "images": 40}'):
        folder.metrics.write_bytes(whole + half)
        log = MetricsLog(folder)
        assert log.last_step == 4
        assert folder.metrics.read_bytes() == whole
    log.write(5, 40, {})
    assert [row["step"] for row in folder.rows()] == [4, 5]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[State, Path]:
    state = State(SPEC, Key(0), CPU)
    with checkpoint.writing(tmp_path / "checkpoint.pt") as writer:
        writer.save(state, 7.5)
    return state, tmp_path / "checkpoint.pt"


def test_a_checkpoint_is_a_round_trip(saved: tuple[State, Path]) -> None:
    other = State(SPEC, Key(1), CPU)
    assert checkpoint.restore(other, saved[1]) == 7.5
    torch.testing.assert_close(other.student.state_dict(), saved[0].student.state_dict(), rtol=0, atol=0)


def test_without_a_checkpoint_a_run_starts_at_0(tmp_path: Path) -> None:
    assert checkpoint.restore(State(SPEC, Key(0), CPU), tmp_path / "checkpoint.pt") == 0.0


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no checkpoint"]
)
def test_a_damaged_checkpoint_is_named(damage: Callable[[bytes], bytes], saved: tuple[State, Path]) -> None:
    saved[1].write_bytes(damage(saved[1].read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.pt: damaged") as caught:
        checkpoint.restore(saved[0], saved[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective.dino.head.prototypes": 17},
        {"objective.ibot.head": None},
        {"model.size": "nano"},
        {"optim.layer_decay": 1.0},  # the same networks in other groups
    ],
)
def test_a_checkpoint_of_another_run_is_named(changes: dict[str, object], saved: tuple[State, Path]) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint of this run"):
        checkpoint.restore(State(with_(SPEC, changes), Key(0), CPU), saved[1])


@pytest.mark.parametrize("content", [{"step": 3}, {"student": {}}, torch.zeros(3), [1, 2]])
def test_something_else_that_torch_can_read_is_no_checkpoint(content: object, saved: tuple[State, Path]) -> None:
    torch.save(content, saved[1])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint"):
        checkpoint.restore(saved[0], saved[1])


def test_a_checkpoint_never_runs_code(saved: tuple[State, Path], tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    torch.save(Payload(), saved[1])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: damaged"):
        checkpoint.restore(saved[0], saved[1])
    assert not (tmp_path / "harm").exists()


def test_batches_are_a_function_of_the_step_alone() -> None:
    def of(step: int, order: Order) -> list[Tensor]:
        batch = make_batch(step, PICTURES, order, SPEC, Key(0), CPU)
        return [*batch.crops, batch.masks]

    order = Order(len(PICTURES), Key(0))
    ascending = [of(step, order) for step in range(6)]
    for step in (5, 2, 0, 4):
        torch.testing.assert_close(of(step, Order(len(PICTURES), Key(0))), ascending[step], rtol=0, atol=0)
        torch.testing.assert_close(of(step, order), ascending[step], rtol=0, atol=0)
