"""Where the runs of a study lie in MLflow: written by the mirror, read by the report, which knows no MLflow."""

import json

from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace


def keep(study: str, addresses: dict[str, str], workspace: Workspace) -> None:
    """Run id -> address of its page. What has not changed is not written, so that no report is drawn anew for it."""
    if addresses != links(study, workspace):
        atomic.write_json(workspace.links(study), addresses)


def links(study: str, workspace: Workspace) -> dict[str, str]:
    file = workspace.links(study)
    try:
        found: dict[str, str] = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):  # damaged: the next mirror writes it anew
        return {}
    return {run: address for run, address in found.items() if address.startswith(("http://", "https://"))}
