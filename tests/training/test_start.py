"""What a run begins with: public weights, or another run's networks at another resolution."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from short_run import SPEC, with_

from dinov2lab.draws import Key
from dinov2lab.model.names import to_huggingface
from dinov2lab.model.vit import positions_at
from dinov2lab.spec.model import HuggingFaceWeights
from dinov2lab.training import checkpoint
from dinov2lab.training.start import from_public, from_run
from dinov2lab.training.step import State

CPU = torch.device("cpu")
LARGER = with_(SPEC, {"views.global_px": 48, "views.local_px": 24})


@pytest.fixture
def ended(tmp_path: Path) -> tuple[State, Path]:
    """Another run as it ended, teacher and student apart."""
    state = State(with_(SPEC, {"objective.teacher.centering": "ema"}), Key(5), CPU)
    with torch.no_grad():
        for parameter in state.teacher.parameters():
            parameter.add_(0.1)
        for centre in state.centres:
            centre.add_(0.5)
    with checkpoint.writing(tmp_path / "checkpoint.pt") as writer:
        writer.save(state, 1.0)
    return state, tmp_path / "checkpoint.pt"


def test_a_run_goes_on_from_another_with_its_heads_and_centres(ended: tuple[State, Path]) -> None:
    state = State(SPEC, Key(0), CPU, from_run(SPEC, ended[1], heads=True))
    for side in ("student", "teacher"):
        torch.testing.assert_close(
            getattr(state, side).state_dict(), getattr(ended[0], side).state_dict(), rtol=0, atol=0
        )
    torch.testing.assert_close(state.centres, ended[0].centres, rtol=0, atol=0)
    assert state.step == 0


def test_at_another_resolution_positions_alone_are_others(ended: tuple[State, Path]) -> None:
    state = State(LARGER, Key(0), CPU, from_run(LARGER, ended[1], heads=True))
    theirs = ended[0].teacher.state_dict()
    for key, value in state.teacher.state_dict().items():
        resampled = key == "backbone.vit.pos_embed"
        assert torch.equal(value, positions_at(theirs[key], (6, 6), 0) if resampled else theirs[key])


def test_without_heads_they_begin_anew(ended: tuple[State, Path]) -> None:
    spec = with_(SPEC, {"objective.dino.head.prototypes": 24})
    drawn = State(spec, Key(0), CPU)
    state = State(spec, Key(0), CPU, from_run(spec, ended[1], heads=False))
    for key, value in state.student.state_dict().items():
        other = ended[0].student if key.startswith("backbone") else drawn.student
        assert torch.equal(value, other.state_dict()[key])
    assert not state.centres.cls.any()
    with pytest.raises(ValueError, match=r"of another shape: dino_head\.prototype_scale 16 x 1, not 24 x 1"):
        from_run(spec, ended[1], heads=True)


def test_public_weights_are_students_and_teachers_alike(ended: tuple[State, Path], tmp_path: Path) -> None:
    theirs = ended[0].student["backbone"].state_dict()
    save_file(to_huggingface(theirs, gated=False), tmp_path / "model.safetensors")
    state = State(SPEC, Key(0), CPU, from_public(SPEC, HuggingFaceWeights(kind="huggingface", folder="."), tmp_path))
    for side in (state.student, state.teacher):
        torch.testing.assert_close(dict(side["backbone"].state_dict()), dict(theirs), rtol=0, atol=0)
