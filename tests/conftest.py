"""Being here, it lets tests import the helpers beside it, such as fabricated.py."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run side by side, a file on each core: a second thread would only wait for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("loaded", deadline=None)  # a loaded machine is no error
settings.load_profile("loaded")

SLURM = Path(__file__).parent / "slurm"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `--dist loadgroup` a file's tests stay together, and all that use the one Slurm."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("slurm" if SLURM in item.path.parents else str(item.path)))
