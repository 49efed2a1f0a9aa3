"""Running a search: one process's part in it, from its first turn to its end, whatever its storage does meanwhile."""

import time
from collections.abc import Callable

from dinov2lab.data.source import Roots
from dinov2lab.lab import opening
from dinov2lab.lab.bench import Bench
from dinov2lab.lab.desk import Desk
from dinov2lab.lab.earlier import Fitting
from dinov2lab.lab.proposals import StorageError
from dinov2lab.lab.slurm import SlurmError
from dinov2lab.spec.points import corners, spec_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.folders import Workspace

POLL = 0.5  # seconds
PATIENCE = 600.0  # seconds without an answer of the storage, or of Slurm


def run_search(
    search: SearchSpec,
    workspace: Workspace,
    roots: Roots,
    bench: Bench,
    *,
    storage: str | None,
    on_change: Callable[[], None],
    on_earlier: Callable[[list[Fitting]], None],
    on_trouble: Callable[[str], None],
) -> None:
    """Work on `search` at `bench` until its budget is spent and every trial has ended, beside whoever else does.

    `on_change` is called about twice a second, `on_earlier` once, with what earlier work had to give, `on_trouble` when the
    storage or Slurm stops answering, with what it says. Raises ValueError where a source or the storage cannot be opened, or
    does not answer for long; KeyboardInterrupt, after the workers have written their checkpoints.
    """
    opening.refuse_absent(_sources(search), roots)  # a wrong path is said once, and before anything starts
    desk = Desk(search, workspace, bench, storage)
    on_earlier(desk.earlier)
    try:
        work_at(desk, on_change, on_trouble)
    finally:
        bench.dismiss()
        desk.leave()
    on_change()


def _sources(search: SearchSpec) -> dict[str, None]:
    """What the base reads, and what is read instead where the space has choices of it; each once."""
    specs = (search.base, *(spec_at(search, point) for _, _, point in corners(search)))
    return dict.fromkeys(uri for spec in specs for uri in spec.sources())


def work_at(desk: Desk, on_change: Callable[[], None], on_trouble: Callable[[str], None], every: float = POLL) -> None:
    """Turn after turn until all is done. A storage or a Slurm that is away is waited for, while the runs go on."""
    going, away = True, None
    while going:
        try:
            if not (going := desk.turn()):
                desk.conclude()
            away = None
        except (StorageError, SlurmError) as error:
            desk.leave()  # all that it has in mind: as after a kill, the next turn takes the trials up from what was told
            if away is None:
                on_trouble(str(error))
            away = away or time.monotonic()
            if time.monotonic() - away > PATIENCE:
                raise
        on_change()
        time.sleep(every)
