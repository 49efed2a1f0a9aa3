"""A search whose workers and controllers are killed at random: no trial is lost or run twice, and MLflow agrees.

KILLS and JOBS set how hard the one with real runs is, SEED which kills. The other one has the measure's full size, eight
processes and twenty kills, and runs without training, so that kills come while trials begin, are told and end.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import synthetic
from tiny import RECIPE, dinov2lab

from dinov2lab.lab import search_mirror
from dinov2lab.lab.desk import Desk
from dinov2lab.store import attempts
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.trials import read_trials

KILLS, JOBS, SEED = (int(os.environ.get(name, given)) for name, given in (("KILLS", 3), ("JOBS", 2), ("SEED", 0)))
TRIALS = max(4, KILLS)
WHOLE = 2  # of ten kills, the one that is of the whole command: it costs every worker the import of torch
SEARCH = """
base: tiny.yaml
space:
  optim.lr: {log: [1.0e-4, 1.0e-2]}
  objective.teacher.temperature: {linear: [0.02, 0.06]}
metrics: {val/knn: maximize}
budget: {trials: %d}
sampler: random
"""


def prepared(folder: Path) -> Path:
    (folder / "experiments").mkdir(parents=True)
    recipe = RECIPE.replace("steps: 12", "steps: 40").replace("every: 128", "every: 640")
    (folder / "experiments" / "tiny.yaml").write_text(recipe)
    (folder / "experiments" / "search.yaml").write_text(SEARCH % TRIALS)
    return folder


def written(folder: Path) -> int:
    """Bytes of metrics: while they grow, runs go on."""
    return sum(file.stat().st_size for file in (folder / "lab" / "runs").glob("*/metrics.jsonl"))


def wait_for_more(folder: Path, parent: subprocess.Popen[bytes], before: int) -> None:
    """Until some run has got further, so that kills hit work and not only the start of processes."""
    while parent.poll() is None and written(folder) <= before:
        time.sleep(0.1)


def workers(parent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    there = psutil.Process(parent.pid).children() if parent.poll() is None else []
    return [each for each in there if is_worker(each)]


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "dinov2lab.lab.worker" in process.cmdline()
    return False


def kill_one(folder: Path, parent: subprocess.Popen[bytes], dealt: random.Random) -> bool:
    """Kill a worker, which is halted first, so that nothing changes between a look at what it leaves and its end."""
    there = workers(parent)
    for victim in dealt.sample(there, len(there)):
        with suppress(psutil.NoSuchProcess):
            victim.suspend()
            if not gives_up(folder, victim, there):
                victim.kill()
                return True
            victim.resume()
    return False


def gives_up(folder: Path, victim: psutil.Process, there: list[psutil.Process]) -> bool:
    """Whether a run would fail if the victim died now, for the third time without its having got further (attempts.py). Who
    has begun such a run and not yet said so may be anyone.
    """
    others = {each.pid for each in there} - {victim.pid}
    for run in map(RunFolder, (folder / "lab" / "runs").iterdir()):
        with suppress(FileNotFoundError):  # it has just ended
            if run.outcome() is None and attempts.futile(run, "begun") >= attempts.LIMIT:
                holder = json.loads(run.heartbeat.read_bytes())["pid"] if run.heartbeat.exists() else None
                if holder not in others:
                    return True
    return False


def told(folder: Path, name: str = "search") -> list[dict[str, Any]]:
    """Of each trial what must not depend on kills."""
    trials = read_trials(Workspace(folder / "lab").search(name))
    return [trial.model_dump(include={"number", "state", "point", "runs", "values", "looks"}) for trial in trials]


PROCESS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import synthetic
from dinov2lab.lab.desk import Desk
place = synthetic.workspace(Path(sys.argv[2]))
search = synthetic.search(budget={"trials": int(sys.argv[3])}, sampler={"kind": "random"})
desk = Desk(search, place, synthetic.Bench(place, paced=True))
while desk.turn():
    time.sleep(0.1)
"""


@pytest.mark.system
def test_eight_processes_killed_twenty_times_end_it_as_one(tmp_path: Path) -> None:
    dealt, count, kills = random.Random(0), 60, 0
    search = synthetic.search(budget={"trials": count}, sampler={"kind": "random"})
    calm, place = synthetic.workspace(tmp_path / "calm"), synthetic.workspace(tmp_path)
    desk = Desk(search, calm, synthetic.Bench(calm))
    while desk.turn():
        pass
    command = [sys.executable, "-c", PROCESS, str(Path(synthetic.__file__).parent), str(tmp_path), str(count)]
    processes = [subprocess.Popen(command) for _ in range(8)]
    while kills < 20:
        wait_for_more(tmp_path, processes[0], written(tmp_path))
        time.sleep(dealt.uniform(0, 0.3))
        at = dealt.randrange(8)
        processes[at].kill()
        assert processes[at].wait() == -signal.SIGKILL, "it had ended before it could be killed"
        processes[at], kills = subprocess.Popen(command), kills + 1
    assert [process.wait() for process in processes] == [0] * 8
    assert told(tmp_path, "s") == told(tmp_path / "calm", "s")
    assert [trial["state"] for trial in told(tmp_path, "s")] == ["complete"] * count
    runs = [run for trial in told(tmp_path, "s") for run in trial["runs"]]
    assert len(set(runs)) == len(runs) == len(list(place.runs.glob("*/result.json")))
    for run in runs:
        steps = [row["step"] for row in place.run(run).rows()]
        assert steps == sorted(set(steps)) == [row["step"] for row in calm.run(run).rows()]
    for _ in range(2):
        search_mirror.sync(search, place, tmp_path / "reports" / "s")
    _mlflow_agrees(tmp_path, "s", count)


@pytest.mark.system
def test_killed_at_random_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, folder = prepared(tmp_path / "whole"), prepared(tmp_path / "killed")
    assert dinov2lab(whole, "search", "search", "--jobs", "1").returncode == 0
    dealt, kills, parents = random.Random(SEED), 0, 0
    command = [sys.executable, "-m", "dinov2lab.cli", "search", "search", "--jobs", str(JOBS)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    while True:
        parent = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while parent.poll() is None and kills < KILLS:
            wait_for_more(folder, parent, written(folder))
            time.sleep(dealt.uniform(0, 4))
            if kills % 10 == WHOLE and parent.poll() is None:
                parent.send_signal(signal.SIGKILL)
                kills, parents = kills + 1, parents + 1
            else:
                kills += kill_one(folder, parent, dealt)
        _, errors = parent.communicate()
        if parent.returncode != -signal.SIGKILL:
            assert parent.returncode == 0, errors.decode()
            break
    assert kills == KILLS
    trials = read_trials(Workspace(folder / "lab").search("search"))
    assert [trial.reason for trial in trials if trial.reason] == []
    assert told(folder) == told(whole)
    assert [trial["state"] for trial in told(folder)] == ["complete"] * TRIALS
    for run in (folder / "lab" / "runs").iterdir():
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps))
    _mlflow_agrees(folder)
    print(f"{kills} kills, {parents} of them of the whole command: {TRIALS} trials, each as in the undisturbed search")


def _mlflow_agrees(folder: Path, name: str = "search", count: int = TRIALS) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/lab/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment
    children = [run for run in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in run.data.tags]
    values = {int(run.data.tags["trial"]): run.data.metrics["final/val/knn"] for run in children}
    assert len(children) == count
    assert values == {trial["number"]: trial["values"][0] for trial in told(folder, name)}
