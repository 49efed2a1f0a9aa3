"""The energy that a run took, as far as its machine told of it while it was computed (lab/vitals.py)."""

import json
from typing import Any

from dinov2lab.store.result import RunFolder

JOULES = 3.6e6  # in a kilowatt-hour
PARTS = ("gpu", "cpu")


def kilowatt_hours(folder: RunFolder, provenance: dict[str, Any]) -> dict[str, float]:
    """`gpu` and `cpu` -> what they took, over all resumes, from system.jsonl; without those that told nothing.

    Of several processes one tells of its own machine and cards, which is no whole: nothing is known then.
    """
    if provenance.get("resources", {}).get("processes", 1) > 1 or not folder.vitals.exists():
        return {}
    whole = folder.vitals.read_bytes().rpartition(b"\n")[0]
    try:
        rows = [json.loads(line) for line in whole.splitlines() if b"_energy_joules" in line]
    except ValueError:  # nothing here is a result, so that a report goes on without
        return {}
    told = {part: [row[name] for row in rows if (name := f"system/{part}_energy_joules") in row] for part in PARTS}
    return {part: sum(joules) / JOULES for part, joules in told.items() if joules}
