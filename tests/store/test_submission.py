"""What is told of a job that ended."""

from pathlib import Path

import pytest

from dinov2lab.store.result import RunFolder
from dinov2lab.store.submission import Launch, last_words, record

SRUN = "srun: error: node1: task 0: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=5.0\n"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("a\nb\n\nc\nd\n", "b / c / d"),
        ("step 7\nout of memory\n" + SRUN, "step 7 / out of memory"),
        (SRUN, " / ".join(SRUN.splitlines())),
        ("", ""),
    ],
)
def test_the_last_words_are_the_run_s_own_where_it_said_any(log: str, words: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    file = tmp_path / "1.err"
    file.write_text(log)
    record(folder, "1", Launch(tmp_path / "launch"), file)
    assert last_words(folder) == words
