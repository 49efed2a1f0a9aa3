"""Several processes on one machine for one run: its results are those of one, and none outlives another."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny import RECIPE, STUDY, started, written

from dinov2lab.lab.team import Lost, Team, team_of
from dinov2lab.training.distributed import Meeting, Place

UNCURATED = RECIPE.replace("curation:", "curation: null #")
LONG = UNCURATED.replace("steps: 12", "steps: 40").replace("every: 128", "every: 640")
HEAD = STUDY.split("arms:")[0].replace("curation.stages", "optim.lr").replace("[0, 1]", "[0]")
ONE_RUN = HEAD.replace("uncurated", "base") + "arms:\n  base: {optim.lr: 0.002}\n"
TWO = ("run", "tiny", "--device", "cpu", "--nproc", "2")


def training(folder: Path, *words: str) -> "subprocess.Popen[str]":
    return started(written(folder, LONG, ONE_RUN), *words)


def of_session(session: int, what: str = "") -> list[int]:
    """The processes of a session that are left, whose command holds `what`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(words[3]) == session and words[0] != "Z" and what in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    files = list(folder.glob("lab/runs/*/metrics.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def until(holds: Callable[[], Any], seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)
    return found


def outcome(folder: Path, name: str = "result") -> dict[str, Any]:
    (file,) = folder.glob(f"lab/runs/*/{name}.json")
    return json.loads(file.read_text())


def kill_a_member(process: "subprocess.Popen[str]", folder: Path, past: int) -> None:
    until(lambda: len(rows(folder)) > past)
    (member,) = of_session(process.pid, "lab.member")
    os.kill(member, signal.SIGKILL)
    until(lambda: member not in of_session(process.pid))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    process = training(folder, *TWO[:-2])
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return folder


def assert_as_calm(folder: Path, calm: Path) -> None:
    """To rounding: one process trained that one."""
    assert [row["step"] for row in rows(folder)] == [row["step"] for row in rows(calm)]
    for ours, theirs in zip(rows(folder)[:25], rows(calm), strict=False):
        assert ours["loss/total"] == pytest.approx(theirs["loss/total"], rel=1e-5)
    assert outcome(folder)["metrics"].keys() == outcome(calm)["metrics"].keys()


@pytest.mark.system
def test_a_killed_member_is_replaced_and_nothing_is_lost_of_weights_that_are_cut(calm: Path, tmp_path: Path) -> None:
    process = training(tmp_path, *TWO, "--shard", "weights")
    kill_a_member(process, tmp_path, 5)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert "process 2 of 2 died of signal 9 (killed by hand, or out of memory); once more" in out
    assert not of_session(process.pid)
    assert_as_calm(tmp_path, calm)


@pytest.mark.system
def test_an_interrupted_and_then_killed_run_leaves_no_orphan_and_goes_on(calm: Path, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        process, had = training(tmp_path, *TWO), len(rows(tmp_path))
        until(lambda had=had: len(rows(tmp_path)) > had + 5)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.kill()
        process.communicate(timeout=120)
        until(lambda process=process: not of_session(process.pid), 30)
    process = training(tmp_path, *TWO)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert_as_calm(tmp_path, calm)


@pytest.mark.system
def test_members_that_die_three_times_on_one_step_are_a_failure_with_its_reason(tmp_path: Path) -> None:
    """In a study, whose worker is started again each time."""
    process = training(tmp_path, "run", "path", "--device", "cpu", "--nproc", "2")
    for _ in range(3):
        (member,) = until(lambda: of_session(process.pid, "lab.member"))
        os.kill(member, signal.SIGKILL)
        until(lambda member=member: member not in of_session(process.pid))
    process.communicate(timeout=600)
    assert process.returncode == 1
    error = outcome(tmp_path, "failure")["error"]
    assert "its process died 3 times without getting past step 0" in error
    assert "process 2 of 2 died of signal 9 (killed by hand, or out of memory)" in error
    assert not of_session(process.pid)


CPU = torch.device("cpu")


def fake(team: Team, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Members that run `script` in place of a run; it finds `meeting`, its own, and `CPU`."""
    begin = (
        "import sys, torch; from dinov2lab.training.distributed import Meeting, Place; CPU = torch.device('cpu');"
        "meeting = Meeting(Place(int(sys.argv[1]), int(sys.argv[2]), port=int(sys.argv[3])));"
    )
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return popen([sys.executable, "-c", begin + script, *command[3:]], **options)

    monkeypatch.setattr("dinov2lab.lab.team.subprocess.Popen", start)


def test_what_a_member_says_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team(2)
    fake(
        team,
        monkeypatch,
        "meeting.hear('order 1'); meeting.tell('here 1 1', 'yes')\n"
        "with meeting.joined(1, CPU): meeting.tell('words 1 1', 'a.png: gone'); sys.exit(1)",
    )
    with pytest.raises(ValueError, match=r"^process 2 of 2: a\.png: gone$"), team.training({}, CPU):
        torch.distributed.all_reduce(torch.zeros(1))
    assert not torch.distributed.is_initialized()


def test_a_member_that_dies_before_it_begins_is_lost_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team(2)
    fake(team, monkeypatch, "sys.exit(3)")
    with pytest.raises(Lost, match=r"^process 2 of 2 died of exit code 3$"), team.training({}, CPU):
        raise AssertionError("nobody is there")


def test_one_process_is_no_more_than_itself() -> None:
    with team_of(1) as team, team.training({}, CPU):
        assert not torch.distributed.is_initialized()


def test_on_one_machine_nothing_but_the_loopback_is_listened_at(monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team(2)
    fake(
        team,
        monkeypatch,
        "meeting.hear('order 1'); meeting.tell('here 1 1', 'yes')\n"
        "with meeting.joined(1, CPU):\n    for _ in range(2): torch.distributed.all_reduce(torch.zeros(1))",
    )
    with team.training({}, CPU):
        torch.distributed.all_reduce(torch.zeros(1))
        processes = [psutil.Process(), *psutil.Process().children()]
        places = [
            each.laddr.ip for process in processes for each in process.net_connections() if each.status == "LISTEN"
        ]
        torch.distributed.all_reduce(torch.zeros(1))
    team.dismiss()
    assert len(places) >= 3  # the store, and both processes for each other
    assert set(places) == {"127.0.0.1"}


def test_a_meeting_passes_words_on() -> None:
    first = Meeting(Place(0, 2))
    second = Meeting(Place(1, 2, port=first.port))
    assert second.told("order 1") is None
    first.tell("order 1", "naïve {}")
    assert second.hear("order 1") == second.told("order 1") == "naïve {}"
