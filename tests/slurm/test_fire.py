"""Jobs that are warned, requeued and killed on a real Slurm: nothing is lost, and what cannot succeed is said."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import ONE_ARM, SMALL, Lab, squeue, until
from tiny import RECIPE, STUDY

pytestmark = pytest.mark.system

SLICES = int(os.environ.get("SLICES", "3"))  # 10 for the full measurement, see benchmarks/README.md
UNCURATED = re.sub(r"curation:.*\n", "", RECIPE)
SEED_0 = STUDY.split("arms:")[0].replace("[0, 1]", "[0]")


@pytest.fixture(autouse=True)
def empty(slurm: Path) -> Iterator[None]:
    """An empty queue, before and after."""
    subprocess.run(["scancel", "--me"], check=True)
    until(lambda: not squeue())
    yield
    subprocess.run(["scancel", "--me"], check=True)
    until(lambda: not squeue())


def steady(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in ("time", "speed/images_per_second")} for row in rows
    ]


def test_many_time_slices_end_as_one(tmp_path: Path) -> None:
    """Warned again and again, by the signal ahead of a limit and by that of a preemption, in the middle of a step."""
    recipe = RECIPE.replace("steps: 12", "steps: 240").replace("every: 128", "every: 2560")
    calm, sliced = (Lab(tmp_path / name, SEED_0 + ONE_ARM, recipe) for name in ("calm", "sliced"))
    calm.say("run", "path", "--jobs", "1", "--device", "cpu")
    sliced.say("run", "path", *SMALL)
    (run,) = calm.metrics()
    (job,) = (name for name, state in squeue().items() if name == submitted(sliced, run))
    for count in range(SLICES):
        had = len(sliced.rows(run))
        until(lambda had=had: len(sliced.rows(run)) > had)
        sent = time.monotonic()
        name = ("USR2", "TERM")[count % 2]
        subprocess.run(["scancel", f"--signal={name}", job], check=True)
        until(lambda: squeue().get(job) == "PENDING", every=0.1)
        assert time.monotonic() - sent < 30
        assert sliced.status()[0]["state"] == "queued"
    until(lambda: not squeue())
    assert sliced.metrics() == calm.metrics()
    assert steady(sliced.rows(run)) == steady(calm.rows(run))
    attempts = (sliced.folder / "lab/runs" / run / "attempts.jsonl").read_text()
    assert attempts.count('"stopped"') == SLICES
    assert sliced.report.exists()


def submitted(lab: Lab, run: str) -> str:
    text = (lab.folder / "lab/runs" / run / "submission.json").read_text()
    return re.search(r'"job": "(\w+)"', text)[1]


DEADLY = """

_train = train


def train(spec, *rest, **named):
    if spec.optim.lr == 0.002:
        import os, signal, sys

        print("about to run out of memory", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return _train(spec, *rest, **named)
"""


def test_what_dies_three_times_on_one_step_is_a_failed_arm(tmp_path: Path) -> None:
    """Nobody looks after it: the job that would write the report sends it again, and at last reports the failure."""
    arms = "arms:\n  uncurated: {}\n  deadly: {optim.lr: 2.0e-3}\n"
    lab = Lab(tmp_path, SEED_0.replace("curation.stages", "optim.lr") + arms, UNCURATED)
    with (lab.code / "dinov2lab/training/loop.py").open("a") as file:
        file.write(DEADLY)
    lab.say("run", "path", *SMALL)
    (run,) = (row["run"] for row in lab.status() if row["arm"] == "deadly")
    until(lambda: {row["arm"]: row for row in lab.status()}["deadly"]["state"] == "lost", every=0.2)
    assert "about to run out of memory" in lab.say("status", "path")
    until(lambda: not squeue(), seconds=400)
    states = {row["arm"]: row for row in lab.status()}
    assert (states["uncurated"]["state"], states["deadly"]["state"]) == ("done", "failed")
    assert "its process died 3 times without getting past step 0" in states["deadly"]["error"]
    assert "about to run out of memory" in states["deadly"]["error"]
    assert "died 3 times" in lab.report.read_text()
    assert (lab.folder / "lab/runs" / run / "attempts.jsonl").read_text().count('"begun"') == 3
