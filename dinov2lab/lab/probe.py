"""Whether libraries can be imported and used, tried in a process of its own: a broken one may take it along.

The process is `python -m dinov2lab.lab.probe NAME...`. It says `begin NAME` before each, and afterwards what it found, as a
line of JSON: {"name": ..., "version": ..., and what else its trial tells}, {"name": ..., "error": ...} or, where it is not
there at all, {"name": ..., "absent": true}.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module, metadata
from typing import Any

from dinov2lab.lab.workers import cause

SECONDS = 120  # of all libraries; a cold file system is slow

PIP = {"PIL": "pillow", "faiss": "faiss-cpu"}  # modules that are not called as what pip installs


def try_all(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name -> what was found; what kills the process is told as its error, and the rest is tried in another one."""
    found = dict[str, dict[str, Any]]()
    while left := [name for name in names if name not in found]:
        said, end = _asked(left)
        begun = None
        for line in said.splitlines():
            if line.startswith("begin "):
                begun = line.removeprefix("begin ")
            elif line.startswith("{"):
                answer = json.loads(line)
                found[answer["name"]] = answer
        guilty = begun if begun in left and begun not in found else next((n for n in left if n not in found), None)
        if guilty is not None:
            found[guilty] = {"name": guilty, "error": f"its import ends the process: {end}"}
    return found


def _asked(names: Sequence[str]) -> tuple[str, str]:
    """(What the process said, how it ended.)"""
    command = [sys.executable, "-m", "dinov2lab.lab.probe", *names]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return said.decode(errors="replace") if isinstance(said, bytes) else said, f"not within {SECONDS} s"
    last = answer.stderr.strip().splitlines()[-1:]
    return answer.stdout, " ".join([cause(answer.returncode), *last])


def _torch(torch: Any) -> dict[str, Any]:
    assert float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()) == 8
    gpus, trouble = list[dict[str, Any]](), ""
    try:
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            seen = torch.cuda.get_device_properties(number)
            x = torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.bfloat16)
            assert float((x @ x)[0, 0]) == 64
            gpus.append({"name": seen.name, "bytes": seen.total_memory, "capability": f"{seen.major}.{seen.minor}"})
    except Exception as error:  # whatever a driver that does not fit raises
        trouble = _line(error)
    return {"cuda": torch.version.cuda, "gpus": gpus, "trouble": trouble}


def _xformers(_: Any) -> dict[str, Any]:
    """Its kernel against torch's own attention, on a GPU where there is one."""
    torch, ops = import_module("torch"), import_module("xformers.ops")
    if not torch.cuda.is_available():
        return {"kernels": None}
    q = torch.randn(1, 16, 2, 32, device="cuda", dtype=torch.bfloat16)
    ours = torch.nn.functional.scaled_dot_product_attention(*(q.transpose(1, 2) for _ in range(3))).transpose(1, 2)
    theirs = ops.memory_efficient_attention(q, q, q)
    return {"kernels": bool(torch.allclose(ours.float(), theirs.float(), atol=0.05))}


def _faiss(faiss: Any) -> dict[str, Any]:
    numpy = import_module("numpy")
    index = faiss.IndexFlatIP(4)
    index.add(numpy.eye(4, dtype=numpy.float32))
    _, ids = index.search(numpy.eye(4, dtype=numpy.float32), 1)
    assert ids.ravel().tolist() == [0, 1, 2, 3]
    return {"gpus": faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0}


TRIALS: dict[str, Callable[[Any], dict[str, Any]]] = {"torch": _torch, "xformers": _xformers, "faiss": _faiss}


def _tried(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield f"begin {name}"
        try:
            module = import_module(name)
            found = {"version": _version(name, module)} | TRIALS.get(name, lambda _: {})(module)
        except BaseException as error:  # some libraries end the program where they do not like what they find
            absent = isinstance(error, ModuleNotFoundError) and error.name in (name, name.split(".")[0])
            found = {"absent": True} if absent else {"error": _line(error)}
        yield json.dumps({"name": name} | found)


def _version(name: str, module: Any) -> str:
    try:
        return metadata.version(PIP.get(name, name))
    except metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "unknown"))


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"[:300]


def main() -> None:
    with os.fdopen(os.dup(1), "w") as told:
        os.dup2(2, 1)  # what libraries say when they are imported is not for whoever reads the answers
        for line in _tried(sys.argv[1:]):
            told.write(line + "\n")
            told.flush()


if __name__ == "__main__":
    main()
