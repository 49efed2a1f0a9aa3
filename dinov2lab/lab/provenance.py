"""Where a result comes from: the code that makes numbers, the commit, the versions, the resources."""

import ast
import hashlib
import platform
import subprocess
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dinov2lab.spec.resources import Resources
from dinov2lab.store import atomic

PACKAGE = Path(__file__).parent.parent
RECORDED_COMMIT = "COMMIT"  # a file of a snapshot
MAKES_NUMBERS = ("draws.py", "collectives.py", "spec", "data", "curation", "model", "training", "evaluation")
SEES = ("data/decode.py", "data/loader.py", "data/views.py", "model")  # makes features of images and weights
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "scipy", "xformers", "faiss-cpu", "faiss-gpu")


def code_id() -> str:
    """A hash of the source that makes numbers."""
    return code_of(MAKES_NUMBERS)


@cache
def code_of(names: tuple[str, ...]) -> str:
    """A hash of the source of these modules and packages; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in names:
        path = PACKAGE / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(PACKAGE)}\n{_meaning(file.read_text())}\n".encode())
    return digest.hexdigest()[:12]


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0] = ast.Pass()
    return ast.dump(tree)


@cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from, with a `+` where it was edited; none outside of one.

    A snapshot says which one it was taken from.
    """
    if (recorded := PACKAGE / RECORDED_COMMIT).exists():
        return recorded.read_text() or None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", str(PACKAGE)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    answer = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, check=True, timeout=20)
    return answer.stdout.strip()


def environment(device: str) -> dict[str, str]:
    """Versions, and the kind of device that computed."""
    found: dict[str, Any] = {"python": platform.python_version(), "device": device}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(
    file: Path,
    resources: Resources,
    device: str,
    manifest: Path,
    sources: dict[str, str],
    weights: str | None,
) -> None:
    """What a run begins with. `manifest`: its folder in the workspace; `weights`: a digest of those that it starts from."""
    record = {
        "started_at": time.time(),
        "commit": commit(),
        "code": code_id(),
        "versions": environment(device),
        "resources": resources.model_dump(mode="json"),
        "manifest_folder": str(manifest),
        "sources": sources,
        "weights": weights,
    }
    atomic.write_json(file, record)
