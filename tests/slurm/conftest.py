"""A real Slurm: the one that is up, else one that is started for these tests and stopped after them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import cluster, squeue, until
from services import missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """Its SLURM_CONF, which is in the environment while the tests run."""
    if not all(Path("/usr/sbin", name).exists() for name in ("munged", "slurmctld", "slurmd")):
        missing("needs Slurm (Debian: apt install slurm-wlm munge)")
    configuration = Path(cluster("env").strip().partition("=")[2])
    running = configuration.exists()
    cluster("up")
    os.environ["SLURM_CONF"] = str(configuration)
    yield configuration
    del os.environ["SLURM_CONF"]
    if not running:
        cluster("down")


@pytest.fixture
def empty(slurm: Path) -> Iterator[None]:
    """An empty queue, before and after."""
    subprocess.run(["scancel", "--me"], check=True)
    until(lambda: not squeue())
    yield
    subprocess.run(["scancel", "--me"], check=True)
    until(lambda: not squeue())
