"""The workers of a search: one process for many runs; stopped, killed and left alone."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import RECIPE

from dinov2lab.data.source import Roots
from dinov2lab.lab.bench import LocalBench
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.points import Planned
from dinov2lab.spec.resources import Resources
from dinov2lab.store import attempts
from dinov2lab.store.folders import Workspace

pytestmark = pytest.mark.system
PATIENCE = 120  # seconds, on a busy machine


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return Workspace(tmp_path / "lab")


@pytest.fixture
def bench(place: Workspace) -> Iterator[LocalBench]:
    made = LocalBench(place, Roots(Path(), place.cache), Resources(device="cpu"), 1)
    yield made
    made.dismiss()


def planned(place: Workspace, *overrides: str) -> Planned:
    spec = load_recipe(place.path.parent / "tiny.yaml", overrides)
    return Planned(run_id(spec), spec)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_one_process_computes_run_after_run_and_a_stopped_one_goes_on_later(
    place: Workspace, bench: LocalBench
) -> None:
    long, short = planned(place, "optim.steps=4000"), planned(place)
    bench.start(long)
    assert not bench.free()
    until(lambda: place.run(long.run).rows())
    bench.stop(long.run)
    until(bench.free)
    assert place.run(long.run).checkpoint.exists()
    assert place.run(long.run).outcome() is None
    bench.start(short)
    until(bench.free)
    outcome = place.run(short.run).outcome()
    assert outcome
    assert outcome.status == "finished"
    assert len(bench._staff.workers) == 1


def kill(bench: LocalBench) -> None:
    bench._staff.workers[0]._process.kill()
    bench._staff.workers[0]._process.wait()


def test_a_run_that_kills_its_process_again_and_again_has_failed(place: Workspace, bench: LocalBench) -> None:
    doomed = planned(place)
    folder = place.run(doomed.run)
    for count in range(1, 4):
        bench.start(doomed)
        until(lambda count=count: folder.attempts.exists() and attempts.futile(folder, "begun") == count)
        kill(bench)
        bench.tend()
    outcome = folder.outcome()
    assert outcome
    assert "its process died 3 times without getting past step 0, the last time by signal 9" in (outcome.error or "")


def test_processes_that_die_before_they_begin_are_no_fault_of_a_run_and_end_it(
    place: Workspace, bench: LocalBench
) -> None:
    order = planned(place)
    for _ in range(2):
        bench.start(order)
        kill(bench)
        bench.tend()
    bench.start(order)
    kill(bench)
    with pytest.raises(
        ValueError, match="3 workers died one after the other before they began a run, the last one of sig"
    ):
        bench.tend()
    assert place.run(order.run).outcome() is None


def test_a_worker_whose_parent_is_gone_leaves_quietly(place: Workspace) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "dinov2lab.lab.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin
    assert worker.stdout
    order = planned(place)
    where = {"workspace": str(place.path), "data": ".", "cache": str(place.cache), "resources": {"device": "cpu"}}
    for line in (where, {"run": order.run, "spec": order.spec.model_dump(mode="json")}):
        worker.stdin.write(json.dumps(line) + "\n")
    worker.stdin.flush()
    worker.stdout.close()
    until(lambda: place.run(order.run).path.exists())
    worker.stdin.close()
    assert worker.wait(PATIENCE) == 0
    assert worker.stderr
    assert worker.stderr.read() == ""
