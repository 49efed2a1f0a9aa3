"""The best run of a study as a registered model, served by MLflow itself."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import fabricated
import numpy as np
import pytest
import torch
from mirrored import client
from PIL import Image
from tiny import dinov2lab

from dinov2lab.data.loader import as_tensor
from dinov2lab.data.views import normalise
from dinov2lab.lab import models, tracking
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.run import ViewsSpec
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store.folders import Workspace

PX, PATIENCE = 32, 180
SILENT = Path("no reports")


def small_study() -> Study:
    one, model = fabricated.study("served"), ModelSpec(size="pico", patch=8)
    views = ViewsSpec(global_px=PX, local_px=16)
    arms = tuple(
        arm.model_copy(update={"spec": arm.spec.model_copy(update={"model": model, "views": views})})
        for arm in one.arms
    )
    return one.model_copy(update={"arms": arms})


@pytest.fixture
def ended(tmp_path: Path) -> tuple[Study, Workspace]:
    """A study in which the second seed of the first arm is best on val, and worst on test."""
    study, workspace = small_study(), Workspace(tmp_path / "lab")
    for number, cell in enumerate(expand(study)):
        fabricated.start(workspace, cell, 3)
        chosen = cell == winner(study)
        fabricated.finish(
            workspace, cell, **{"val/knn": 0.9 if chosen else 0.5, "test/knn": 0.1 if chosen else 0.5 + number / 100}
        )
    fabricated.remember(workspace, study)
    net, generator = Backbone(winner(study).spec.model, PX), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1, generator=generator)
    torch.save(net.state_dict(), workspace.run(winner(study).run).backbone)
    return study, workspace


@pytest.fixture
def mirrored(ended: tuple[Study, Workspace], monkeypatch: pytest.MonkeyPatch) -> tuple[Study, Workspace]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.sync(*ended, SILENT)
    return ended


def winner(study: Study) -> Cell:
    return next(cell for cell in expand(study) if (cell.arm, cell.seed) == ("uncurated", 1))


def png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_the_best_run_is_chosen_on_val(ended: tuple[Study, Workspace]) -> None:
    study, workspace = ended
    assert models.best(study, workspace) == (winner(study), "val/knn", 0.9)


def test_without_a_value_on_val_nothing_is_chosen(ended: tuple[Study, Workspace]) -> None:
    study, workspace = ended
    loss = study.model_copy(update={"decide": study.decide.model_copy(update={"metric": "loss/total"})})
    with pytest.raises(ValueError, match="the best is chosen on val alone"):
        models.best(loss, workspace)


@pytest.mark.system
def test_a_model_is_registered_once_and_answers(mirrored: tuple[Study, Workspace], tmp_path: Path) -> None:
    study, workspace = mirrored
    made = models.register(study, workspace)
    assert (made.name, made.version, made.run) == ("served", "1", winner(study).run)
    assert models.register(study, workspace) == made, "done twice, it adds nothing"
    (version,) = client(workspace).search_model_versions("name = 'served'")
    assert version.tags["arm"] == "uncurated"

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (PX, PX, 3), dtype=np.uint8))
    with torch.inference_mode():
        net = Backbone(winner(study).spec.model, PX)
        net.load_state_dict(torch.load(workspace.run(made.run).backbone))
        ours = net.eval()([normalise(as_tensor([picture]))])[0].cls
    assert float(ours.std()) > 0.1
    with served(workspace, made) as port:
        assert asked(port, [png(picture)]) == pytest.approx(ours.numpy(), abs=1e-5)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            asked(port, [b"no picture"], "picture")

    answer = dinov2lab(tmp_path, "register", study.name, "--workspace", str(workspace.path))
    assert answer.returncode == 0, answer.stderr
    assert f"model served, version 1: run {winner(study).run}, val/knn 0.9" in answer.stdout
    assert "mlflow models serve -m models:/served/1 --env-manager local" in answer.stdout


@contextmanager
def served(workspace: Workspace, made: models.Registered) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow calls uvicorn by its name
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking.tracking_uri(workspace), "PATH": path}
    words = ["models", "serve", "-m", f"models:/{made.name}/{made.version}", "--env-manager", "local"]
    command = [sys.executable, "-m", "mlflow", *words, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        until_it_answers(port)
        yield port
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def until_it_answers(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"no answer after {PATIENCE} s")


def asked(port: int, files: list[bytes], column: str = "image") -> Any:
    rows = [[base64.b64encode(file).decode()] for file in files]
    body = json.dumps({"dataframe_split": {"columns": [column], "data": rows}}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.asarray(json.loads(answer.read())["predictions"])
