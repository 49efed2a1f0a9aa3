"""Resources: the logistics of a run, which change none of its numbers beyond rounding."""

from typing import Literal

from dinov2lab.spec.section import Count, Positive, Section


class Resources(Section):
    """Where and how a run is computed. Never part of the hash."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 1
    checkpoint_seconds: Positive = 30.0
