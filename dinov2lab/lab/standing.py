"""Where runs stand that jobs compute: by their files first, then by the queue, and of those in neither, how they ended."""

from collections.abc import Sequence

from dinov2lab.lab import slurm
from dinov2lab.spec.study import Cell
from dinov2lab.store import heartbeat
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder
from dinov2lab.store.state import Standing, standing
from dinov2lab.store.submission import Submission, last_words, submission


def standings(cells: Sequence[Cell], workspace: Workspace) -> list[Standing]:
    """Of each cell. Slurm is asked only where a run without an outcome was submitted."""
    folders = [workspace.run(cell.run) for cell in cells]
    sent = [submission(folder) for folder in folders]
    pending = [each for each, folder in zip(sent, folders, strict=True) if each and folder.outcome() is None]
    try:
        queue = slurm.queue() if pending else {}
        silence = ""
    except slurm.SlurmError as error:
        queue, silence = None, str(error)
    # The files are read after the queue: a job that ends in between has left its outcome by then.
    return [_refined(folder, each, queue, silence) for folder, each in zip(folders, sent, strict=True)]


def _refined(
    folder: RunFolder, sent: Submission | None, queue: dict[str, slurm.Queued] | None, silence: str
) -> Standing:
    found = standing(folder)
    if found.state != "waiting":
        return found
    if sent is None or queue is None:
        if heartbeat.alive(folder):  # on a file system that does not tell of locks
            return found._replace(state="running", note=heartbeat.words(folder))
        return found._replace(note=silence)
    job = queue.get(sent.job)
    if job is None:
        return found._replace(state="lost", note=_end(folder, sent))
    if job.waits:
        return found._replace(state="queued", note=f"job {sent.job}: {job.reason}")
    return found._replace(state="running", note=f"job {sent.job}: {job.state.lower()}")


def _end(folder: RunFolder, sent: Submission) -> str:
    """What happened to a job that is gone and has left no outcome, as far as anybody knows."""
    epitaph, said = slurm.epitaph(sent.job), last_words(folder)
    known = [f"job {sent.job} is gone" + (f" ({epitaph})" if epitaph else "")]
    known += [f"its last words: {said}"] if said else []
    return "; ".join(known)
