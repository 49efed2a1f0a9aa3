"""Evaluation: what was measured of a network after its training, in a file beside the run's result and never in it."""

from pathlib import Path
from typing import Any

from pydantic import Field

from dinov2lab.store import atomic, reading
from dinov2lab.store.result import Record

TIMM = "timm:"  # before a model's name
OF_LABELS = ("knn", "few_shot", "linear", "linear_grid", "logistic", "retrieval")
METRICS = ("health", *OF_LABELS, "segmentation", "depth", "copies", "revisited", "pictures")


class Evaluation(Record):
    of: str  # a run's id, a file, or timm:NAME
    weights: str  # a digest of them
    px: int  # side of the images that the network saw
    memory: str  # the URI of what is learnt from
    metrics: tuple[str, ...]  # that were asked for; none: all that the images allow
    values: dict[str, dict[str, float]]  # the URI of what is tested on -> name -> value
    skipped: dict[str, str] = Field(default={})  # what was not measured, and why
    spec: dict[str, Any] = Field(default={})  # how
    sources: dict[str, str] = Field(default={})  # URI -> fingerprint when it was read
    code: str
    commit: str | None = None
    environment: dict[str, str] = Field(default={})
    finished_at: float  # seconds since the epoch


def read(file: Path) -> Evaluation | None:
    return reading.read(file, Evaluation.model_validate_json) if file.exists() else None


def write(evaluation: Evaluation, file: Path) -> None:
    atomic.write_text(file, evaluation.model_dump_json(indent=1) + "\n")
