"""Being here, it lets tests import the helpers beside it, such as fabricated.py."""

import os
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# Tests run side by side, a file on each core: a second thread would only wait for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("loaded", deadline=None)  # a loaded machine is no error
settings.load_profile("loaded")


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests stay together, and all that use the one Slurm.

    Not by xdist's own groups: pytest 9.2 and xdist 3.8 ignore them without a word (pytest-xdist, issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "slurm" if file.startswith("tests/slurm/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None
