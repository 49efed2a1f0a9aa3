"""optuna-dashboard on a search's storage, where it is installed."""

from importlib.util import find_spec

from dinov2lab.lab.proposals import open_study
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.folders import Workspace


def serve(search: SearchSpec, workspace: Workspace, storage: str | None, port: int) -> int:
    """On the loopback, until Ctrl-C; the exit code. Raises ValueError where it is not installed, or nothing has begun."""
    if find_spec("optuna_dashboard") is None:
        raise ValueError("--dashboard: optuna-dashboard is not installed here: pip install optuna-dashboard")
    if not (workspace.search(search.name) / "search.json").exists():
        raise ValueError(f"--dashboard: the search {search.name} has not begun in {workspace.path}")
    from optuna_dashboard import run_server

    run_server(open_study(search, workspace.search(search.name), storage)._storage, host="127.0.0.1", port=port)
    return 0
