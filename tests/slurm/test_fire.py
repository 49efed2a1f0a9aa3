"""Jobs that are warned, requeued and killed on a real Slurm: nothing is lost, and what cannot succeed is said."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lab import ONE_ARM, SMALL, Lab, cluster, squeue, until
from tiny import RECIPE, STUDY

from dinov2lab.store import atomic
from dinov2lab.store.result import RunFolder

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("empty")]

SLICES = int(os.environ.get("SLICES", "2"))  # 10 for the full measurement, see benchmarks/README.md
UNCURATED = re.sub(r"curation:.*\n", "", RECIPE)
SEED_0 = STUDY.split("arms:")[0].replace("[0, 1]", "[0]")


def steady(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in ("time", "speed/images_per_second")} for row in rows
    ]


def test_many_time_slices_end_as_one(tmp_path: Path) -> None:
    """Warned again and again, by the signal ahead of a limit and by that of a preemption, in the middle of a step."""
    recipe = RECIPE.replace("steps: 12", "steps: 100").replace("every: 128", "every: 1600")
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


RUNS = int(os.environ.get("RUNS", "0"))  # 12 for the full measurement, see benchmarks/README.md
MATCHES = {
    "PENDING": "queued",
    "REQUEUED": "queued",
    "CONFIGURING": "queued",
}  # of Slurm's states; any other is running
TWO_ARMS = "arms:\n  uncurated: {}\n  faster: {optim.lr: 2.0e-3}\n"


@pytest.mark.skipif(RUNS == 0, reason="takes minutes: RUNS=12 says how many runs")
def test_a_study_under_fire_is_finished_by_one_run(slurm: Path, tmp_path: Path) -> None:
    """A warning, a requeue and the kill -9 of a slurmd in the middle of it; `status` is true at each look."""
    study = STUDY.replace("[0, 1]", str(list(range(RUNS // 2)))).replace("curation.stages", "optim.lr", 1)
    recipe = UNCURATED.replace("steps: 12", "steps: 240").replace("every: 128", "every: 2560")
    calm, lab = (Lab(tmp_path / name, study.split("arms:")[0] + TWO_ARMS, recipe) for name in ("calm", "lab"))
    calm.say("run", "path", "--jobs", "2", "--device", "cpu")
    lab.say("run", "path", *SMALL)
    watch = Watch(lab)
    for shot in (["scancel", "--signal=USR2"], ["scontrol", "requeue"]):
        while subprocess.run([*shot, until(watch.at_work, seconds=1200)], check=False).returncode:
            pass  # that one had just ended
    node = node_of(until(watch.at_work, seconds=1200))
    os.kill(int((slurm.parent / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
    until(lambda: watch.look() and state_of(node) == "down", seconds=300)
    cluster("node", node)
    until(lambda: watch.look() and not squeue(), seconds=3600)
    lab.say("run", "path", *SMALL)
    until(lambda: watch.look() and not squeue(), seconds=3600)
    assert {row["state"] for row in lab.status()} == {"done"}
    assert lab.metrics() == calm.metrics()
    assert lab.report.exists()
    print(f"{watch.looks} looks at {RUNS} runs saw {dict(watch.seen)}")


class Watch:
    """Asks for the status, and compares it with the queue and the files, right before and right after."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self.looks, self.seen = lab, 0, Counter[str]()
        self._runs = [row["run"] for row in lab.status()]
        self._hit = set[str]()

    def look(self) -> bool:
        before = self._truth()
        told = {row["run"]: row["state"] for row in self._lab.status()}
        after = self._truth()
        for run in self._runs:
            assert told[run] in (before[run], after[run]), f"{run}: {before[run]}, said {told[run]}, {after[run]}"
        self.looks += 1
        self.seen.update(told.values())
        return True

    def at_work(self) -> str | None:
        """A job that trains, and that nobody has shot at yet."""
        self.look()
        queue = squeue()
        for run in self._runs:
            job = submitted(self._lab, run)
            if queue.get(job) == "RUNNING" and job not in self._hit and self._lab.rows(run):
                self._hit.add(job)
                return job
        return None

    def _truth(self) -> dict[str, str]:
        queue = squeue()
        return {run: self._of(run, queue) for run in self._runs}

    def _of(self, run: str, queue: dict[str, str]) -> str:
        folder = RunFolder(self._lab.folder / "lab/runs" / run)
        if folder.result.exists():
            return "done"
        if atomic.held(folder.lock):
            return "running"
        job = submitted(self._lab, run)
        return MATCHES.get(queue[job], "running") if job in queue else "lost"


def node_of(job: str) -> str:
    return subprocess.check_output(["squeue", "--noheader", f"--jobs={job}", "--format=%N"], text=True).strip()


def state_of(node: str) -> str:
    text = subprocess.check_output(["sinfo", "--noheader", f"--nodes={node}", "--format=%t"], text=True)
    return text.strip().rstrip("*")
