"""The cluster of these tests does what they rely on."""

import math
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


def test_submitit_runs_an_array(slurm: Path, tmp_path: Path) -> None:
    import submitit

    executor = submitit.SlurmExecutor(tmp_path)
    executor.update_parameters(time=2)
    jobs = executor.map_array(math.factorial, [1, 2, 3])
    assert [job.result() for job in jobs] == [1, 2, 6]
