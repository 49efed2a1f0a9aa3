"""Whether the libraries that runs need are there, work, and are versions that go together."""

import re
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from dinov2lab.lab.findings import Finding
from dinov2lab.lab.probe import PIP, try_all

NEEDED = ("numpy", "PIL", "scipy", "pyarrow", "pydantic", "ruamel.yaml", "torch", "torchvision", "timm", "safetensors")
BESIDE = {  # what is not to be had without them
    "pandas": "no report",
    "jinja2": "no report",
    "mlflow": "no MLflow pages; runs end all the same, and `dinov2lab sync` brings them in later",
    "optuna": "no searches",
    "submitit": "no --launcher slurm",
}
EXTRAS = {  # distribution -> what it is for, the extra that brings it
    "transformers": ("evaluate and export of transformers' models", "export"),
    "onnx": ("export --to onnx", "export"),
    "onnxruntime": ("export --to onnx, which compares features", "export"),
    "pg8000": ("searches in PostgreSQL", "postgres"),
}
NVIDIA = Path("/dev/nvidiactl")
GIB = 2**30

Tried = Mapping[str, dict[str, Any]]


def libraries() -> list[Finding]:
    tried = try_all([*NEEDED, *BESIDE, "faiss", "xformers"])
    found = [_needed(tried), *_beside(tried), *_versions(), *_pair(), _gpus(tried["torch"])]
    return [*found, _attention(tried["xformers"]), _search(tried["faiss"]), _extras()]


def _pip(name: str) -> str:
    return PIP.get(name, name)


def _needed(tried: Tried) -> Finding:
    """All of them in one line while they work."""
    bad = [name for name in NEEDED if "version" not in tried[name]]
    if not bad:
        main = ("torch", "torchvision", "timm", "numpy")
        return Finding("libraries", "ok", ", ".join(f"{name} {tried[name]['version']}" for name in main))
    why = "; ".join(f"{name}: {tried[name].get('error', 'is not installed')}" for name in bad)
    mend = f"pip install --force-reinstall {' '.join(map(_pip, bad))}"
    if {"torchvision", "timm"} & set(bad):  # what is broken is most often not itself, but its fellow
        mend = "pip install --force-reinstall torch torchvision timm, all three from one index"
    return Finding("libraries", "broken", why, "nothing can be trained or evaluated", mend)


def _beside(tried: Tried) -> list[Finding]:
    lacking = [name for name in BESIDE if "version" not in tried[name]]
    return [
        Finding(
            name,
            "lacking",
            tried[name].get("error", "is not installed"),
            BESIDE[name],
            f"pip install --force-reinstall '{_asked(name) or name}'",
        )
        for name in lacking
    ]


def _requirements() -> list[str]:
    """What this package asks for, but for its extras; nothing where it runs without being installed."""
    try:
        asked = metadata.requires("dinov2lab") or []
    except metadata.PackageNotFoundError:
        return []
    return [line for line in asked if "extra ==" not in line]


def _asked(name: str) -> str | None:
    return next((line for line in _requirements() if re.match(rf"{re.escape(name)}\b", line)), None)


def _versions() -> list[Finding]:
    """Those that were not asked for: what they break was seen, or is to be expected of a next major version."""
    from packaging.requirements import Requirement

    wrong = []
    for requirement in map(Requirement, _requirements()):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            continue  # told where it is tried
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append((requirement, version))
    if not wrong:
        return []
    there = ", ".join(f"{each.name} {version} where {each.specifier} is wanted" for each, version in wrong)
    mend = "pip install " + " ".join(f"'{each}'" for each, _ in wrong)
    return [Finding("versions", "lacking", there, "untried together; a run may end with an error", mend)]


def _pair() -> list[Finding]:
    """torch and torchvision are built in pairs, of one version and one build (cpu, cu130): else operators are missing."""
    from packaging.requirements import Requirement

    try:
        ours, theirs = metadata.version("torch"), metadata.version("torchvision")
        wanted = [line for line in metadata.requires("torchvision") or [] if re.match(r"torch\b", line)]
    except metadata.PackageNotFoundError:
        return []
    fits = all(Requirement(line).specifier.contains(ours, prereleases=True) for line in wanted)
    number, _, build = ours.partition("+")
    if fits and build == theirs.partition("+")[2]:
        return []
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    cost = "importing torchvision, and with it timm, may end with `operator torchvision::nms does not exist`"
    mend = f"pip install --force-reinstall torch=={number} torchvision{index}"
    return [Finding("torch's pair", "lacking", f"torch {ours} beside torchvision {theirs}", cost, mend)]


def _gpus(torch: dict[str, Any]) -> Finding:
    if "version" not in torch:
        return Finding("CUDA", "lacking", "cannot be asked for: torch does not work", "no GPU", "mend torch first")
    gpus, driver = torch["gpus"], shutil.which("nvidia-smi") is not None or NVIDIA.exists()
    if gpus and not torch["trouble"]:
        names = ", ".join(f"{gpu['name']} ({gpu['bytes'] / GIB:.0f} GiB)" for gpu in gpus)
        return Finding("CUDA", "ok", f"{torch['cuda']}: {names}")
    cost = "training on the CPU: small networks on small images; see docs/learning_on_small_hardware.md"
    if torch["trouble"]:
        mend = "nvidia-smi shows the driver's CUDA; pip install a torch built for it, or for your GPU's generation"
        return Finding("CUDA", "broken", f"a GPU that torch cannot use: {torch['trouble']}", "every run on it", mend)
    if driver and torch["cuda"] is None:
        mend = "pip install --force-reinstall torch torchvision"
        return Finding("CUDA", "lacking", "a driver, but a torch that was built for the CPU alone", cost, mend)
    if driver:
        mend = "nvidia-smi and $CUDA_VISIBLE_DEVICES say why; in a container: docker run --gpus all"
        return Finding("CUDA", "lacking", f"a driver, and no GPU that torch {torch['cuda']} sees", cost, mend)
    return Finding("CUDA", "lacking", "no GPU", cost, "dinov2lab run RECIPE --launcher slurm, where a cluster has GPUs")


def _attention(xformers: dict[str, Any]) -> Finding:
    """Nothing here calls xformers: attention is torch's, which is as exact."""
    if "absent" in xformers:
        return Finding("xformers", "ok", "is not installed, and nothing needs it: attention is torch's own")
    if "error" in xformers or xformers["kernels"] is False:
        why = xformers.get("error", "its attention differs from torch's")
        return Finding("xformers", "lacking", why, "nothing: attention is torch's own", "pip uninstall xformers")
    tried = "its kernel agrees with torch's" if xformers["kernels"] else "no GPU to try its kernels on"
    return Finding("xformers", "ok", f"{xformers['version']}, {tried}")


def _search(faiss: dict[str, Any]) -> Finding:
    both = [name for name in ("faiss-cpu", "faiss-gpu") if _installed(name)]
    if len(both) > 1:
        mend = "pip uninstall -y faiss-cpu faiss-gpu && pip install 'dinov2lab[cpu]'   (or [cuda])"
        return Finding(
            "faiss", "lacking", "faiss-cpu and faiss-gpu in one folder", "either may be half the other", mend
        )
    if "version" in faiss:
        return Finding("faiss", "ok", f"{faiss['version']}, {'on GPUs too' if faiss['gpus'] else 'on the CPU'}")
    cost = "search for near images is torch's, exact or by lists; vectors beyond main memory have no codes"
    mend = "pip install 'dinov2lab[cpu]'   (or [cuda])"
    return Finding("faiss", "lacking", faiss.get("error", "is not installed"), cost, mend)


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _extras() -> Finding:
    gone: Sequence[str] = [name for name in EXTRAS if not _installed(name)]
    if not gone:
        return Finding("extras", "ok", ", ".join(EXTRAS))
    extras = ",".join(dict.fromkeys(EXTRAS[name][1] for name in gone))
    cost = "; ".join(f"without {name}, no {EXTRAS[name][0]}" for name in gone)
    return Finding("extras", "lacking", f"no {', '.join(gone)}", cost, f"pip install 'dinov2lab[{extras}]'")
