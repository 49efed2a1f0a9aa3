"""Runs that are given up: those whose process dies at one place again and again, and that nobody is at."""

from pathlib import Path

from dinov2lab.lab.outcome import give_up
from dinov2lab.store import atomic, attempts
from dinov2lab.store.result import RunFolder


def test_a_run_is_given_up_after_its_third_death_unless_another_process_is_at_it(tmp_path: Path) -> None:
    """That one may have begun it for the third time when a process is found dead that had come too late for it."""
    folder = RunFolder(tmp_path / "run")
    for _ in range(attempts.LIMIT):
        give_up(folder, "signal 9")
        assert folder.outcome() is None
        attempts.note(folder, "begun")
    with atomic.locked(folder.lock):
        give_up(folder, "signal 9")
        assert folder.outcome() is None
    give_up(folder, "signal 9")
    outcome = folder.outcome()
    assert outcome
    assert outcome.error == "its process died 3 times without getting past step 0, the last time by signal 9"
