"""Running searches: one process's part in them, from the first turn to the end, whatever their storage does meanwhile."""

import time
from collections.abc import Callable, Sequence

from dinov2lab.data.source import Roots
from dinov2lab.lab import opening
from dinov2lab.lab.bench import Bench
from dinov2lab.lab.desk import Desk
from dinov2lab.lab.earlier import Fitting
from dinov2lab.lab.gaussian import Gaussian
from dinov2lab.lab.proposals import StorageError
from dinov2lab.lab.slurm import SlurmError
from dinov2lab.spec.points import corners, spec_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.folders import Workspace

POLL = 0.5  # seconds
PATIENCE = 600.0  # seconds without an answer of the storage, or of Slurm


def run_searches(
    searches: Sequence[SearchSpec],
    workspace: Workspace,
    roots: Roots,
    bench: Callable[[SearchSpec], Bench],
    *,
    on_change: Callable[[], None],
    on_trouble: Callable[[str], None],
    on_earlier: Callable[[list[Fitting]], None] = lambda _: None,
    on_end: Callable[[SearchSpec], None] = lambda _: None,
    storage: str | None = None,
    side_by_side: int = 1,
    each: int | None = None,
) -> None:
    """Work on `searches`, each at its `bench`, until budgets are spent and trials have ended, beside whoever else does.

    So many go on `side_by_side`, each with so many runs at a time; none given, as many as its bench takes. `on_change` is
    called about twice a second, `on_earlier` once for each, with what earlier work had to give, `on_end` when one has ended,
    `on_trouble` when the storage or Slurm stops answering, with what it says. Raises ValueError where a source or the storage
    cannot be opened, or does not answer for long; KeyboardInterrupt, after the workers have written their checkpoints.
    """
    sources = dict.fromkeys(uri for search in searches for uri in _sources(search))
    opening.refuse_absent(sources, roots)  # a wrong path is said once, and before anything starts
    benches, gaussian = {search.name: bench(search) for search in searches}, Gaussian()
    desks = [Desk(search, workspace, benches[search.name], storage, each, gaussian) for search in searches]
    for desk in desks:
        on_earlier(desk.earlier)
    try:
        work_at(desks, on_change, on_trouble, on_end=on_end, side_by_side=side_by_side)
    finally:
        for taken in benches.values():
            taken.dismiss()
        for desk in desks:
            desk.leave()
        gaussian.dismiss()
    on_change()


def _sources(search: SearchSpec) -> dict[str, None]:
    """What the base reads, and what is read instead where the space has choices of it; each once."""
    specs = (search.base, *(spec_at(search, point) for _, _, point in corners(search)))
    return dict.fromkeys(uri for spec in specs for uri in spec.sources())


def work_at(
    desks: Sequence[Desk],
    on_change: Callable[[], None],
    on_trouble: Callable[[str], None],
    *,
    on_end: Callable[[SearchSpec], None] = lambda _: None,
    side_by_side: int = 1,
) -> None:
    """Turn after turn until all is done. A storage or a Slurm that is away is waited for, while the runs go on."""
    left, away = list(desks), None
    while left:
        try:
            for desk in left[:side_by_side]:
                if not desk.turn():
                    desk.conclude()
                    left.remove(desk)
                    on_end(desk.search)
            away = None
        except (StorageError, SlurmError) as error:
            for desk in left:
                desk.leave()  # all that it has in mind: as after a kill, the next turn takes up what was told
            if away is None:
                on_trouble(str(error))
            away = away or time.monotonic()
            if time.monotonic() - away > PATIENCE:
                raise
        on_change()
        time.sleep(POLL)
