"""Jobs that are warned, requeued and killed on a real Slurm: nothing is lost, and what cannot succeed is said."""

import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import ONE_ARM, SMALL, Lab, cluster, squeue, until
from tiny import RECIPE, STUDY

pytestmark = pytest.mark.system

SLICES = int(os.environ.get("SLICES", "3"))  # 10 for the full measurement, see benchmarks/README.md
STORM_SEEDS = int(os.environ.get("STORM_SEEDS", "2"))  # of two arms; 6 for the full measurement
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


def test_a_study_under_fire_is_finished_by_one_run(tmp_path: Path) -> None:
    """Signals, requeues, kills and the death of a node's daemon; each look at the status meanwhile is true."""
    recipe = RECIPE.replace("steps: 12", "steps: 240").replace("every: 128", "every: 2560")
    study = STUDY.replace("[0, 1]", str(list(range(STORM_SEEDS))))
    calm, stormy = Lab(tmp_path / "calm", study, recipe), Lab(tmp_path / "stormy", study, recipe)
    calm.say("run", "path", "--jobs", "2", "--device", "cpu")
    stormy.say("run", "path", *SMALL)
    chance, node_down = random.Random(5), 0.0
    deadline = time.monotonic() + 900
    looks = 0
    while squeue():
        assert time.monotonic() < deadline
        running = [job for job, state in squeue().items() if state == "RUNNING" and "_" in job]
        if running and looks < 12:
            shoot(chance.choice(("usr2", "term", "requeue", "kill")), chance.choice(running))
        if looks == 3:
            folder = Path(os.environ["SLURM_CONF"]).parent
            subprocess.run(["kill", "-9", (folder / "slurmd.node2.pid").read_text().strip()], check=True)
            node_down = time.monotonic()
        if node_down and time.monotonic() - node_down > 25:
            cluster("node", "node2")
            node_down = 0.0
        look(stormy)
        looks += 1
        time.sleep(chance.uniform(0, 2))
    if node_down:
        cluster("node", "node2")
    assert {row["state"] for row in stormy.status()} == {"done"}
    assert stormy.metrics() == calm.metrics()
    assert stormy.report.exists()


def shoot(how: str, job: str) -> None:
    """One that has ended in between is no target."""
    words = {
        "usr2": ["scancel", "--signal=USR2", job],
        "term": ["scancel", "--signal=TERM", job],
        "requeue": ["scontrol", "requeue", job],
        "kill": ["scancel", "--signal=KILL", job],
    }
    subprocess.run(words[how], check=False, capture_output=True)


def look(lab: Lab) -> None:
    """What the status says agrees with the queue before and after it, where the two agree."""
    before, rows, after = squeue(), lab.status(), squeue()
    for row in rows:
        job = submitted(lab, row["run"])
        seen = {queue.get(job) for queue in (before, after)}
        if seen == {None}:
            assert row["state"] in ("done", "lost", "running"), row  # running: on a node whose daemon died
        elif seen == {"PENDING"}:
            assert row["state"] in ("queued", "running", "done"), row
        elif seen == {"RUNNING"}:
            assert row["state"] in ("running", "done"), row
