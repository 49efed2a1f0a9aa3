"""A worker that waits for its parent's word and has its views made by processes of their own comes to an end."""

import json
import subprocess
import sys
from pathlib import Path

from tiny import RECIPE

from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.resources import Resources
from dinov2lab.store.folders import Workspace


def test_processes_forked_by_a_listening_worker_do_not_wait_for_its_ear(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    spec, workspace = load_recipe(tmp_path / "tiny.yaml"), Workspace(tmp_path / "lab")
    resources = Resources(device="cpu", workers=1)
    plan = {
        "workspace": str(workspace.path),
        "data": str(tmp_path),
        "cache": str(workspace.cache),
        "resources": resources.model_dump(mode="json"),
    }
    order = {"run": run_id(spec), "spec": spec.model_dump(mode="json")}
    command = [sys.executable, "-m", "dinov2lab.lab.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as worker:
        assert worker.stdin
        worker.stdin.writelines(json.dumps(line) + "\n" for line in (plan, order, {"last": True}))
        worker.stdin.flush()
        try:
            assert worker.wait(120) == 0
        finally:
            worker.kill()
    outcome = workspace.run(run_id(spec)).outcome()
    assert outcome
    assert outcome.status == "finished", outcome.error
