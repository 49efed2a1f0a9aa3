"""What processes make ahead is what the run would have made, in order; and no process outlives the run."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from dinov2lab.data.ahead import ahead


def made(step: int) -> tuple[Tensor, int]:
    """Whose sum depends on how many threads share it."""
    return torch.rand(200_000, generator=torch.Generator().manual_seed(step)).mean(), step


def failing(step: int) -> int:
    if step == 3:
        raise ValueError("memory:flat: 3 could be read before and is vanished now")
    return step


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_make_what_the_run_makes_bit_for_bit(workers: int) -> None:
    torch.set_num_threads(2)
    try:
        here = list(ahead(made, range(5, 16), 0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    there = list(ahead(made, range(5, 16), workers))
    assert [step for _, step in there] == list(range(5, 16))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(here, there, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_comes_with_its_step_and_in_its_own_words(workers: int) -> None:
    steps = ahead(failing, range(9), workers)
    assert [next(steps) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^memory:flat: 3 could be read before and is vanished now$"):
        next(steps)


def test_processes_end_with_the_iterator() -> None:
    before = set(psutil.Process().children())
    with closing(ahead(made, range(1000), 2)) as steps:
        next(steps)
        assert len({*psutil.Process().children()} - before) >= 2
    assert not [child for child in {*psutil.Process().children()} - before if child.name().startswith("python")]


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_what_a_terminal_or_a_cluster_tells_all_is_the_runs_to_answer(told: signal.Signals) -> None:
    """A run that has to leave still writes its checkpoint: its loader is no failure of it."""
    before = set(psutil.Process().children())
    with closing(ahead(made, range(1000), 2)) as steps:
        assert [next(steps)[1] for _ in range(2)] == [0, 1]  # one of each
        workers = set(psutil.Process().children()) - before
        assert len(workers) == 2
        for worker in workers:
            worker.send_signal(told)
        assert [next(steps)[1] for _ in range(20)] == list(range(2, 22))


RUN = """
import os, signal, sys, time, psutil
from contextlib import closing
from dinov2lab.data.ahead import ahead
signal.signal(signal.SIGINT, signal.default_int_handler)
with closing(ahead(lambda step: step, range(10**6), 2)) as steps:
    next(steps)
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    while True:
        next(steps)
        time.sleep(0.01)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_a_run_however_it_ends(end: signal.Signals, tmp_path: Path) -> None:
    with (tmp_path / "err").open("wb") as errors:
        run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=errors, text=True)
    assert run.stdout is not None
    workers = [int(word) for word in run.stdout.readline().split()]
    assert len(workers) == 2
    if end is signal.SIGINT:  # as from a terminal: all get it
        for worker in workers:
            os.kill(worker, end)
    run.send_signal(end)
    run.wait(timeout=30)
    run.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a process outlives its run"
        time.sleep(0.05)
    said = (tmp_path / "err").read_text()
    assert said.count("Traceback") == (end is signal.SIGINT), said  # the run's own


def alive(process: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False
