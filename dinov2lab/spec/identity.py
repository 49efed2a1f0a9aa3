"""A run is its content hash: of the resolved spec, never of a difference from defaults, never of where it ran.

A field that is added to a spec later declares the value that its absence meant, with `later(absent=...)` of section.py,
and is left out of the hash at that value: the ids of runs from before it survive. tests/golden/run_ids.json proves it.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from dinov2lab.spec.run import RunSpec

ID_LENGTH = 12


def canonical(value: Any) -> Any:
    """`value` as plain JSON types, fields in order of their names, added fields left out at their absent value."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        kept = {}
        for name in sorted(fields):
            extra = fields[name].json_schema_extra
            item = getattr(value, name)
            if isinstance(extra, dict) and "absent" in extra and item == extra["absent"]:
                continue
            kept[name] = canonical(item)
        return kept
    if isinstance(value, tuple):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    return value


def content_id(value: Any) -> str:
    """A short hash of any value of plain JSON types or spec sections."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def run_id(spec: RunSpec) -> str:
    return content_id(spec)
