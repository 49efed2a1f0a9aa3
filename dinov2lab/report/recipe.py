"""A resolved RunSpec as a recipe: YAML that runs, every field written out."""

import json
from collections.abc import Iterator
from typing import Any

from dinov2lab.spec.run import RunSpec


def as_yaml(spec: RunSpec, description: str) -> str:
    """Loading it gives `spec` again, whatever becomes of the recipe that it came from."""
    return "\n".join([f"description: {json.dumps(description)}", *_lines(spec.model_dump(mode="json"), ""), ""])


def _lines(entries: dict[str, Any], indent: str) -> Iterator[str]:
    """Mappings as blocks; all else as JSON, which YAML 1.2 reads."""
    for key, value in entries.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(value)}"


def short(value: Any) -> str:
    """A value of a field in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
