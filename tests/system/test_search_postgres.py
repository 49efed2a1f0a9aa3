"""A search whose storage is a PostgreSQL server: many processes, kills, a server that goes away, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from postgres import SECRET, Server
from synthetic import Bench
from tiny import RECIPE, dinov2lab

from dinov2lab.lab import search as lab_search
from dinov2lab.lab.desk import Desk
from dinov2lab.lab.proposals import StorageError
from dinov2lab.lab.search import work_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import read_trials

pytestmark = pytest.mark.system
ASHA = {"kind": "asha", "first": 3200, "reduction": 2}
SEARCH = """
base: tiny.yaml
space: {optim.lr: {log: [1.0e-4, 1.0e-2]}}
metrics: {val/knn: maximize}
budget: {trials: 1}
sampler: random
"""
WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import synthetic
from dinov2lab.lab.desk import Desk
place = synthetic.workspace(Path(sys.argv[2]))
search = synthetic.search(budget={"trials": 16}, sampler={"kind": "random"})
desk = Desk(search, place, synthetic.Bench(place, 2, paced=True), sys.argv[3])
while desk.turn():
    print("turn", flush=True)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.remove()


def work(desk: Desk) -> None:
    while desk.turn():
        pass


def told(search: SearchSpec, place: Workspace) -> list[dict[str, Any]]:
    """What must repeat: all but the clock, and how far a run went on while the storage was away."""
    free = {"began", "ended", "images", "seconds"}
    return [trial.model_dump(exclude=free) for trial in read_trials(place.search(search.name))]


def test_processes_of_which_one_is_killed_end_it_as_one_with_a_journal(server: Server, tmp_path: Path) -> None:
    search = synthetic.search(budget={"trials": 16}, sampler={"kind": "random"})
    calm, place = synthetic.workspace(tmp_path / "calm"), synthetic.workspace(tmp_path)
    work(Desk(search, calm, Bench(calm)))
    command = [sys.executable, "-c", WORKER, str(Path(synthetic.__file__).parent), str(tmp_path), server.url]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert workers[0].stdout
    for _ in range(6):
        assert workers[0].stdout.readline() == "turn\n"
    workers[0].kill()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [-9, 0]
    assert told(search, place) == told(search, calm)
    runs = {trial["runs"][0] for trial in told(search, place)}
    assert len(runs) == 16
    for run in runs:
        steps = [json.loads(line)["step"] for line in place.run(run).metrics.read_text().splitlines()]
        assert steps == sorted(set(steps))


def test_a_server_that_goes_away_is_waited_for(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = synthetic.search(pruner=ASHA, sampler={"kind": "tpe", "startup": 3})
    calm, place = synthetic.workspace(tmp_path / "calm"), synthetic.workspace(tmp_path)
    work(Desk(search, calm, Bench(calm, paced=True)))
    troubles, turns = list[str](), 0

    def turned() -> None:
        nonlocal turns
        turns += 1
        if turns in (5, 12):
            server.stop()

    def trouble(said: str) -> None:
        troubles.append(said)
        server.start()

    monkeypatch.setattr(lab_search, "POLL", 0.0)
    work_at([Desk(search, place, Bench(place, paced=True), server.url)], turned, trouble)
    assert len(troubles) == 2
    assert not [said for said in troubles if "\n" in said or SECRET in said]
    assert told(search, place) == told(search, calm)


def test_the_command_leaves_the_password_nowhere(server: Server, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/tiny.yaml").write_text(RECIPE)
    (tmp_path / "experiments/s.yaml").write_text(SEARCH)
    answer = dinov2lab(tmp_path, "search", "s", "--jobs", "1", "--storage", server.url)
    assert answer.returncode == 0, answer.stderr
    assert "1 trial: 1 complete" in answer.stdout
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    secrets = (SECRET, server.url.split("@")[0])
    assert not [text for text in secrets if text in answer.stdout + answer.stderr]
    assert not [file for file in files if any(text.encode() in file.read_bytes() for text in secrets)]


def test_searches_of_two_workspaces_by_one_name_do_not_meet(server: Server, tmp_path: Path) -> None:
    searches = [synthetic.search(budget={"trials": 2}, sampler={"seed": seed}) for seed in (0, 1)]
    places = [synthetic.workspace(tmp_path / str(seed)) for seed in (0, 1)]
    for search, place in zip(searches, places, strict=True):
        work(Desk(search, place, Bench(place), server.url))
    assert [len(told(search, place)) for search, place in zip(searches, places, strict=True)] == [2, 2]
    with pytest.raises(StorageError, match="holds another search by that name"):
        Desk(searches[0], places[1], Bench(places[1]), server.url)


def test_what_the_server_refuses_is_one_line_and_binds_nobody(server: Server, tmp_path: Path) -> None:
    search, place = synthetic.search(budget={"trials": 1}), synthetic.workspace(tmp_path)
    for url, says in (
        (server.url.replace("me:", "me:wrong"), 'password authentication failed for user "me"'),
        (server.url.replace("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
        (server.url.replace("pg8000", "nodriver"), "nodriver"),
    ):
        with pytest.raises(StorageError, match=says) as error:
            Desk(search, place, Bench(place), url)
        assert "\n" not in str(error.value)
        assert "wrong" not in str(error.value)
    work(Desk(search, place, Bench(place), server.url))
    assert len(told(search, place)) == 1
