"""The energy that a run took, as far as its machine told of it while it was computed (lab/vitals.py)."""

import json
from pathlib import Path

JOULES = 3.6e6  # in a kilowatt-hour
PARTS = ("gpu", "cpu")


def kilowatt_hours(vitals: Path) -> dict[str, float]:
    """`gpu` and `cpu` -> what they took, over all resumes, from a run's system.jsonl; without those that told nothing."""
    lines = vitals.read_bytes().splitlines() if vitals.exists() else []
    try:
        rows = [json.loads(line) for line in lines if b"_energy_joules" in line]
    except ValueError:  # nothing here is a result, so that a report goes on without
        return {}
    told = {part: [row[name] for row in rows if (name := f"system/{part}_energy_joules") in row] for part in PARTS}
    return {part: sum(joules) / JOULES for part, joules in told.items() if joules}
