"""One run on several processes of a real Slurm: on one node, and on two. The losses are those of a single process."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import ONE_ARM, SMALL, Lab, squeue, until
from tiny import RECIPE, STUDY

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("empty")]

SEED_0 = STUDY.split("arms:")[0].replace("[0, 1]", "[0]")
LONG = RECIPE.replace("steps: 12", "steps: 60").replace("every: 128", "every: 640")
TWO_NODES = ("--slurm", "nodes=2")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The run on one process, on this machine."""
    lab = Lab(tmp_path_factory.mktemp("calm"), SEED_0 + ONE_ARM, LONG)
    lab.say("run", "path", "--jobs", "1", "--device", "cpu")
    return lab


def losses(lab: Lab, run: str) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name.startswith("loss/") or name in ("step", "images")}
        for row in lab.rows(run)
    ]


def assert_alike(lab: Lab, calm: Lab) -> None:
    (run,) = calm.metrics()
    found, wanted = losses(lab, run), losses(calm, run)
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for ours, theirs in zip(found[:50], wanted, strict=False):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert lab.metrics()[run].keys() == calm.metrics()[run].keys()


def test_two_processes_of_a_node_have_the_losses_of_one(calm: Lab, tmp_path: Path) -> None:
    lab = Lab(tmp_path, SEED_0 + ONE_ARM, LONG)
    assert "1 run submitted" in lab.say("run", "path", *SMALL, "--slurm", "tasks_per_node=2")
    until(lambda: not squeue())
    assert lab.status()[0]["state"] == "done"
    assert_alike(lab, calm)
    assert lab.report.exists()


def test_two_nodes_have_them_too_after_a_warning_and_the_death_of_a_process(calm: Lab, tmp_path: Path) -> None:
    """All write one checkpoint and are queued again; of a process that dies the others do not stay behind."""
    lab = Lab(tmp_path, SEED_0 + ONE_ARM, LONG)
    lab.say("run", "path", *SMALL, *TWO_NODES)
    (run,) = calm.metrics()
    until(lambda: len(lab.rows(run)) > 5)
    (job,) = (job for job in squeue() if job == submitted(lab, run))
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until(lambda: squeue().get(job) == "PENDING", every=0.1)
    attempts = lab.folder / "lab/runs" / run / "attempts.jsonl"
    assert attempts.read_text().count('"stopped"') == 1
    had = len(lab.rows(run))
    until(lambda: len(lab.rows(run)) > had + 3)
    os.kill(member_of(job), signal.SIGKILL)
    until(lambda: not squeue(), seconds=400)  # the last job sends it again, and that one's last job reports it
    assert lab.status()[0]["state"] == "done"
    assert_alike(lab, calm)


def submitted(lab: Lab, run: str) -> str:
    text = (lab.folder / "lab/runs" / run / "submission.json").read_text()
    return re.search(r'"job": "(\w+)"', text)[1]


def member_of(job: str) -> int:
    """The process of a job that is not its first."""
    (process,) = (
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and is_member(entry, job.partition("_")[0])
    )
    return process


def is_member(entry: Path, job: str) -> bool:
    try:
        words = (entry / "environ").read_bytes().split(b"\0")
        command = (entry / "cmdline").read_bytes()
    except OSError:
        return False
    return {b"SLURM_PROCID=1", b"SLURM_JOB_ID=" + job.encode()} <= set(words) and b"submitit" in command


def test_processes_that_would_cut_a_koleo_group_are_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SEED_0 + ONE_ARM, LONG)
    text = lab.say("run", "path", *SMALL, *TWO_NODES, "--slurm", "tasks_per_node=2", code=2)
    assert "4 processes would cut one of the 2 KoLeo groups" in text
    assert not squeue()
