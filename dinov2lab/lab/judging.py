"""What a run is judged by: looks during its training, what is measured in the end, and the reference rows."""

from collections.abc import Sequence
from typing import Any

import torch

from dinov2lab.draws import Key
from dinov2lab.evaluation import dense, protocol
from dinov2lab.lab.seeing import eyes, pixel_eyes
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.evaluation import EvaluationSpec
from dinov2lab.spec.run import RunSpec
from dinov2lab.training.start import Start
from dinov2lab.training.teacher import build_student


def looks(teacher: Backbone, student: Backbone, spec: RunSpec, data: protocol.EvaluationData) -> dict[str, float]:
    """During training; the student's by names of its own, where the spec asks for them."""
    values = _look(teacher, spec, data)
    if spec.evaluation.looks and spec.evaluation.looks.student:
        values |= _named("student", _look(student, spec, data))
    return values


def _look(backbone: Backbone, spec: RunSpec, data: protocol.EvaluationData) -> dict[str, float]:
    see = eyes(backbone, spec.views.global_px)
    values = protocol.look(see.image, data, spec.evaluation)
    if spec.evaluation.looks and spec.evaluation.looks.segmentation:
        values |= dense.look(see.patches, data, spec.evaluation)
    return values


def best_looks(rows: Sequence[dict[str, Any]], spec: EvaluationSpec) -> dict[str, float]:
    """How many images had been seen when each value on val was best, the first time; where the spec asks for looks."""
    if spec.looks is None:
        return {}
    names = dict.fromkeys(name for row in rows for name in row if name.removeprefix("student/").startswith("val/"))
    best = {name: max((row for row in rows if name in row), key=lambda row: row[name]) for name in names}
    return {f"choice/images_at_best_{name.replace('/', '_')}": float(row["images"]) for name, row in best.items()}


def finals(see: protocol.Eyes, data: protocol.EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """Everything that is measured of a network in the end."""
    values = protocol.final(see.image, data, spec, see.blocks)
    values |= protocol.copies(see.image, data) | protocol.revisited(see.image, data)
    return values | dense.final(see.patches, data, spec)


def references(
    spec: RunSpec, data: protocol.EvaluationData, device: torch.device, start: Start | None
) -> dict[str, float]:
    """The reference rows of every report: raw pixels, this network with drawn weights, and with those it began with."""
    if data.memory is None:
        return {}
    student = build_student(spec, Key(spec.seed, spec.replicate)).to(device)
    untrained, px = student["backbone"], spec.views.global_px
    assert isinstance(untrained, Backbone)
    rows = _named("pixels", finals(pixel_eyes(px, spec.model.patch), data, spec.evaluation))
    rows |= _named("untrained", finals(eyes(untrained, px), data, spec.evaluation))
    if start:
        student.load_state_dict(start.teacher, strict=False)
        rows |= _named("initial", finals(eyes(untrained, px), data, spec.evaluation))
    return rows


def _named(whose: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{whose}/{name}": value for name, value in values.items() if not name.startswith("choice/")}
