"""Optuna in the search's terms: its storage, its samplers, and a trial's point.

Each trial is sampled by a sampler of its own, whose seed is a function of the search's seed and of how many points came
before it: a search that was killed draws what it would have drawn.
"""

import hashlib
import json
import logging
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dinov2lab.lab.gaussian import Gaussian, GaussianSampler
from dinov2lab.spec.points import active
from dinov2lab.spec.search import Dimension, SearchSpec, search_id
from dinov2lab.store import atomic

IDENTITY = "dinov2lab.search"  # user attribute of the study: which search it is


class StorageError(ValueError):
    """The storage cannot be used, or holds something else. One line."""


class _FileLock(JournalFileOpenLock):
    """A lock of the journal that dies with its holder; Optuna's own outlives a killed process by half a minute."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._held = path, ExitStack()

    def acquire(self) -> bool:
        return self._held.enter_context(atomic.locked(self._path))

    def release(self) -> None:
        self._held.close()


class Journal(JournalFileBackend):
    """An append-only file that is written through to the disk once a turn (`settle`), not at every word of it.

    What a crash of the machine takes away is asked and told again, in the same words, and the runs have their results.
    """

    def __init__(self, file: Path, lock: Path) -> None:
        self._file, self._turn = file, _FileLock(lock)
        super().__init__(str(file), lock_obj=self._turn)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._turn.acquire()
        try:
            with self._file.open("ab", buffering=0) as file:
                file.write(lines.encode())
        finally:
            self._turn.release()


def settle(folder: Path) -> None:
    """See to it that what was told to the journal in `folder` is on the disk, where there is one."""
    if (file := folder / "journal.log").exists():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def open_study(search: SearchSpec, folder: Path, url: str | None) -> optuna.Study:
    """The search's study in its journal in `folder`, or in an Optuna RDB `url`; made where it is missing.

    Raises StorageError.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    note, where = folder / "storage", public(url) if url else "journal"
    name = _name_there(search, note, where)
    try:
        study = optuna.create_study(
            storage=_database(url) if url else journal(folder),
            study_name=name,
            directions=list(search.metrics.values()),
            load_if_exists=True,
            pruner=_pruner(search),
        )
        found = study.user_attrs.get(IDENTITY)
        if found is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(IDENTITY, found := search_id(search))
            study.set_metric_names(list(search.metrics))
    except json.JSONDecodeError as error:
        raise StorageError(
            f"the storage of search {search.name}: {folder / 'journal.log'} is damaged; move it away, and the search begins "
            "anew with the results that its runs have"
        ) from error
    except Exception as error:  # whatever a database or its driver raises
        raise _trouble(search, error, url) from error
    if found != search_id(search):
        raise StorageError(
            f"the storage of search {search.name} ({public(url) if url else folder}) holds another search by that name: "
            "what was searched has changed since; rename this one, or remove that folder"
        )
    if not note.exists():  # only now: what could not be opened binds nobody
        atomic.write_text(note, f"{where}\n" if name == search.name else f"{where}\n{name}\n")
    return study


def _name_there(search: SearchSpec, note: Path, where: str) -> str:
    """What the search is called in its storage, in which it stays. A database may have searches of other workspaces."""
    if not note.exists():
        return search.name if where == "journal" else f"{search.name}.{uuid.uuid4().hex[:6]}"
    known, *own = note.read_text().split()
    if known != where:
        raise StorageError(f"search {search.name} lives in another storage ({known}), not in {where}: see --storage")
    return own[0] if own else search.name


def _database(url: str) -> optuna.storages.RDBStorage:
    """A connection that has died since, as when the server was started anew, is replaced before it is used."""
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # it would tell of each dead one with a traceback
    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def journal(folder: Path) -> JournalStorage:
    """A journal without the line that a kill cut short."""
    file, lock = folder / "journal.log", folder / "journal.lock"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.locked(lock):
        if file.exists() and (text := file.read_bytes()) and not text.endswith(b"\n"):
            with file.open("r+b") as opened:
                opened.truncate(text.rfind(b"\n") + 1)
    return JournalStorage(Journal(file, lock))


def public(url: str) -> str:
    """Without the user and the password."""
    scheme, slashes, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if slashes else url.rpartition("@")[2]


@contextmanager
def using(search: SearchSpec, url: str | None) -> Iterator[None]:
    """Inside, what a database says when it is away or refuses is a StorageError."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _trouble(search, error, url) from error


def _trouble(search: SearchSpec, error: Exception, url: str | None) -> StorageError:
    return StorageError(f"the storage of search {search.name}{f', {public(url)}' if url else ''}: {_line(error, url)}")


def _line(error: Exception, url: str | None) -> str:
    root: BaseException = error
    while root.__cause__:
        root = root.__cause__
    if isinstance(root, ModuleNotFoundError):
        return f"it needs {root.name}, which is not installed here"
    if isinstance(root, ArgumentError):
        return "no address of a database, such as sqlite:///FILE or postgresql+pg8000://ME@HOST/DATABASE"
    said = root.args[0] if root.args else ""
    text = str(said["M"] if isinstance(said, dict) and "M" in said else root)  # pg8000: PostgreSQL's fields by letter
    line = (text.strip().splitlines() or [type(root).__name__])[0]
    return line.replace(url, public(url)) if url else line


def sampler(search: SearchSpec, before: int, gaussian: Gaussian) -> optuna.samplers.BaseSampler:
    """The sampler of one trial, before which so many points were asked for."""
    options, space = search.sampler, search.space
    seed = int.from_bytes(hashlib.sha256(f"{options.seed}/{before}".encode()).digest()[:4])
    match options.kind:
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "grid":
            points = {key: grid_points(dimension, options.points) for key, dimension in space.items()}
            return optuna.samplers.GridSampler(points, seed=options.seed)  # shuffled alike for every trial
        case "gp":
            return GaussianSampler(gaussian, seed, options.startup)
    conditional = any(dimension.when for dimension in space.values())
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=options.startup,
        multivariate=True,
        group=conditional,
        constant_liar=True,
    )


def _pruner(search: SearchSpec) -> optuna.pruners.BasePruner:
    """Rungs are ours (rungs.py), for the sake of promotions."""
    if search.pruner.kind == "wilcoxon":
        return optuna.pruners.WilcoxonPruner(p_threshold=search.pruner.p)
    return optuna.pruners.NopPruner()


def grid_points(dimension: Dimension, count: int) -> list[Any]:
    """Evenly spaced values of a range, its ends included; all choices."""
    if dimension.choices is not None:
        return [encoded(value) for value in dimension.choices]
    assert dimension.bounds is not None
    low, high = dimension.bounds
    shares = [place / (count - 1) for place in range(count)]
    if dimension.log:
        return [low ** (1 - share) * high**share if 0 < share < 1 else (low, high)[share > 0] for share in shares]
    values = [low + share * (high - low) for share in shares]
    return list(dict.fromkeys(map(round, values))) if dimension.integers else values


def size(search: SearchSpec) -> int | None:
    """How many points there are, where that is known: of a grid."""
    if search.sampler.kind != "grid":
        return None
    found = 1
    for dimension in search.space.values():
        found *= len(grid_points(dimension, search.sampler.points))
    return found


def distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if dimension.choices is not None:
        return optuna.distributions.CategoricalDistribution([encoded(value) for value in dimension.choices])
    assert dimension.bounds is not None
    low, high = dimension.bounds
    if dimension.integers:
        return optuna.distributions.IntDistribution(int(low), int(high))
    return optuna.distributions.FloatDistribution(low, high, log=dimension.log is not None)


def suggest(trial: optuna.Trial, search: SearchSpec) -> dict[str, Any]:
    """The trial's point. What it has been given before stands."""
    point = dict[str, Any]()
    for key, dimension in active(search, point):
        match distribution(dimension):
            case optuna.distributions.CategoricalDistribution() as those:
                point[key] = decoded(dimension, trial.suggest_categorical(key, those.choices))
            case optuna.distributions.IntDistribution() as whole:
                point[key] = trial.suggest_int(key, whole.low, whole.high)
            case optuna.distributions.FloatDistribution() as real:
                point[key] = trial.suggest_float(key, real.low, real.high, log=real.log)
    return point


def encoded(value: Any) -> Any:
    """As Optuna stores a value: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def decoded(dimension: Dimension, stored: Any) -> Any:
    return next((value for value in dimension.choices or () if encoded(value) == stored), stored)
