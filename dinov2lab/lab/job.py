"""What runs inside a Slurm job: one run, or the curation that runs share. Imports nothing heavy before it can hear signals.

Ahead of a time limit, or when a job is preempted, Slurm sends a signal. The loop then writes a checkpoint and the job asks to
be queued again, as often as it takes: what counts attempts is store/attempts.py, by what they achieved. submitit's own
handler would raise in the middle of a step, and counts each signal to a short job as a timeout.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from dinov2lab.lab import slurm

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
PORTS = range(20000, 32000)  # below those that systems give out; one for each job
AGAIN = 1  # exit code of a job that goes on later; Slurm has put it back by then
Stop = Callable[[], bool]


class Job:
    """Called with the path of a JSON plan and nothing else: what a job does can be read, and no pickle holds it."""

    def __init__(self, work: Callable[[dict[str, Any], Stop], str]) -> None:
        self._work = work

    def __call__(self, plan: str) -> str:
        said = json.loads(Path(plan).read_bytes())
        warning = Warned(grace=said["signal_seconds"] * 2 / 3)
        from dinov2lab.lab.execute import Stopped

        try:
            return self._work(said, warning.heard)
        except Stopped:
            say("a checkpoint is written")
            go_on_later(said.get("submission"))
            raise SystemExit(AGAIN) from None
        finally:
            warning.forget()

    def checkpoint(self, plan: str) -> Any:
        """For submitit's own handler, until ours is there."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, plan)


def train(plan: dict[str, Any], stop: Stop) -> str:
    from dinov2lab.lab.execute import execute
    from dinov2lab.lab.member import serve
    from dinov2lab.lab.team import Team
    from dinov2lab.spec.run import RunSpec
    from dinov2lab.training.distributed import Meeting

    place, team = _place(), Team()
    if place.rank > 0:
        serve(Meeting(place), stop)
        return "trained along"
    if place.of > 1:
        team = Team(place.of, Meeting(place))
    spec = RunSpec.model_validate_json(json.dumps(plan["spec"]))
    workspace, roots, resources = _places(plan)
    result = execute(spec, workspace, roots, resources, stop=stop, team=team)
    team.leave()
    say(f"run {result.run} {result.status}" + (f": {result.error}" if result.error else ""))
    return result.status


def stages(plan: dict[str, Any], stop: Stop) -> str:
    """The curation of all runs, each stage once. What fails here fails again in the run that needs it, and is told there."""
    from dinov2lab.lab.execute import Stopped, curated, explained
    from dinov2lab.spec.run import RunSpec

    workspace, roots, resources = _places(plan)
    for value in plan["specs"]:
        if stop():
            raise Stopped
        try:
            folder = curated(RunSpec.model_validate_json(json.dumps(value)), workspace, roots, resources, stop)
            say(f"curated: {folder.path}")
        except Stopped:
            raise
        except Exception as error:
            say(explained(error))
    return "curated"


def _place() -> Any:
    """Of this process among those of its job, by Slurm's variables; the first one is on the node where the job begins."""
    from dinov2lab.training.distributed import LOOPBACK, Place

    rank, of, here, nodes, job = (
        int(os.environ[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID", "STEP_NUM_NODES", "JOB_ID")
    )
    host = os.environ["SLURM_LAUNCH_NODE_IPADDR"] if nodes > 1 else LOOPBACK
    return Place(rank, of, here, host, PORTS[job % len(PORTS)])


def curate_part(plan: dict[str, Any], stop: Stop) -> str:
    """One shard of what a curation does image by image, as far as it goes before it needs the others."""
    from dinov2lab.curation.pipeline import share
    from dinov2lab.curation.shards import Cut
    from dinov2lab.data.source import open_source
    from dinov2lab.lab.execute import for_curation
    from dinov2lab.spec.run import RunSpec

    spec = RunSpec.model_validate_json(json.dumps(plan["spec"]))
    workspace, roots, resources = _places(plan)
    source, cut = open_source(spec.data.train, roots), Cut(plan["shards"], plan["shard"])
    waiting = share(source, spec.curation, cut, **for_curation(workspace, roots, resources, stop))
    for line in waiting:
        say(line)
    return "done" if not waiting else "waits for others"


def curate_whole(plan: dict[str, Any], stop: Stop) -> str:
    """What the shards have left, merged, and all that is decided by it."""
    from dinov2lab.lab.execute import curated
    from dinov2lab.spec.run import RunSpec

    spec = RunSpec.model_validate_json(json.dumps(plan["spec"]))
    workspace, roots, resources = _places(plan)
    folder = curated(spec, workspace, roots, resources, stop, shards=plan["shards"])
    say(f"curated: {folder.path}")
    return "curated"


def measure(plan: dict[str, Any], stop: Stop) -> str:
    """What was asked of one finished run; what is measured already is left alone."""
    from dinov2lab.lab.evaluate import asked_of, evaluate
    from dinov2lab.lab.exam import Places
    from dinov2lab.lab.subject import of_run

    workspace, roots, resources = _places(plan)
    subject = of_run(workspace.run(plan["run"]))
    asked = asked_of(subject, plan["on"], plan["memory"], plan["metrics"])
    found = evaluate(subject, asked, Places(workspace, roots), resources.device)
    say(f"run {found.of} evaluated")
    return "evaluated"


def _places(plan: dict[str, Any]) -> Any:
    from dinov2lab.data.source import Roots
    from dinov2lab.spec.resources import Resources
    from dinov2lab.store.folders import Workspace

    roots = Roots(Path(plan["data"]), Path(plan["cache"]))
    return Workspace(Path(plan["workspace"])), roots, Resources.model_validate(plan["resources"])


class Warned:
    """Whether Slurm has warned this process; heard at once, whatever the main thread is busy with.

    Where nothing could be stopped within `grace` seconds (a curation stage has no checkpoint), the job asks to be queued
    again all the same, before it is killed.
    """

    def __init__(self, grace: float) -> None:
        self._warned, self._grace = False, grace
        ours, self._theirs = socket.socketpair()
        self._ours = ours
        self._theirs.setblocking(False)
        self._before = {each: signal.signal(each, _nothing) for each in SIGNALS}
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()

    def heard(self) -> bool:
        return self._warned

    def forget(self) -> None:
        signal.set_wakeup_fd(-1)
        self._theirs.close()

    def _listen(self) -> None:
        while heard := self._ours.recv(1):
            if heard[0] in SIGNALS and not self._warned:
                self._warned = True
                say(f"{signal.Signals(heard[0]).name}: stops as soon as it can")
                late = threading.Timer(self._grace, go_on_later)
                late.daemon = True
                late.start()


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def go_on_later(submission: str | None = None) -> None:
    """Ask to be queued again, unless Slurm has other plans: it puts back itself what it preempts, and scancel means it."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return  # the first process of the job does
    job = os.environ["SLURM_JOB_ID"]
    state = slurm.state(job)
    if state == "RUNNING":
        say("asks to be queued again")
        slurm.requeue(job)
    elif state == "CANCELLED":
        say("was cancelled")
        if submission is not None:
            Path(submission).unlink(missing_ok=True)  # nobody is to take it for a job that got lost


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
