"""optuna-dashboard on a search's storage, where it is installed."""

from importlib.util import find_spec

from dinov2lab.lab.proposals import open_study
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import has_run


def serve(search: SearchSpec, workspace: Workspace, storage: str | None, port: int) -> int:
    """On the loopback, until Ctrl-C; the exit code. Raises ValueError where it is not installed, nothing has begun, or the
    port is taken.
    """
    if find_spec("optuna_dashboard") is None:
        raise ValueError('--dashboard: optuna-dashboard is not installed here: pip install "dinov2lab[dashboard]"')
    if not has_run(search.name, workspace):
        raise ValueError(f"--dashboard: the search {search.name} has not begun in {workspace.path}")
    from optuna_dashboard import run_server

    kept = open_study(search, workspace.search(search.name), storage)._storage
    try:
        run_server(kept, host="127.0.0.1", port=port)
    except OSError as error:
        raise ValueError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
    return 0
