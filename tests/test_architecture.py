"""Who may import whom, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "dinov2lab"
ROWS = (
    ("cli",),
    ("console", "api"),
    ("options",),
    ("cluster", "local"),
    ("tuning",),
    ("searching", "curating", "evaluating", "differing", "doctor", "beginning"),
    ("commands", "overview"),
    ("publisher",),
    ("progress",),
    ("terminal",),
    ("lab", "report"),
    ("curation", "training", "evaluation", "export"),
    ("data", "model"),
    ("store", "collectives", "draws"),
    ("spec",),
)
HOMES = {
    "mlflow": ("lab/",),
    "optuna": ("lab/",),
    "optuna_dashboard": ("lab/",),
    "submitit": ("lab/",),
    "matplotlib": ("report/",),
    "jinja2": ("report/",),
    "faiss": ("curation/index.py",),
    "timm": ("model/",),
    "transformers": ("export/",),
    "onnxruntime": ("export/",),
    "torch.distributed": ("collectives.py", "training/distributed.py"),
    "rich": ("terminal.py", "progress.py"),
    "typer": ("cli.py", "console/", "options.py"),
    "ruamel": ("spec/document.py",),
}
PRINTING = (
    "cli.py",
    "terminal.py",
    "lab/worker.py",
)  # a worker's standard output is a pipe to its launcher
FILES = {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text()) for file in sorted(ROOT.rglob("*.py"))}


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere in a module, `from a import b` as a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def row(name: str) -> int:
    return next(index for index, names in enumerate(ROWS) if name in names)


@pytest.mark.parametrize("file", FILES)
def test_imports_only_from_rows_below_or_from_its_own_package(file: str) -> None:
    own = file.removesuffix(".py").split("/")[0]
    if own != "__init__":
        ours = {name.split(".")[1] for name in imports(FILES[file]) if name.startswith("dinov2lab.")}
        assert not {other for other in ours - {own, "__version__"} if row(other) <= row(own)}


@pytest.mark.parametrize("file", FILES)
def test_each_outside_system_has_one_home(file: str) -> None:
    for system, homes in HOMES.items():
        if not file.startswith(homes):
            assert not {name for name in imports(FILES[file]) if f"{name}.".startswith(f"{system}.")}


def test_a_spec_needs_no_more_than_pydantic_and_the_yaml_reader() -> None:
    packages = {name.split(".")[0] for file in FILES if file.startswith("spec/") for name in imports(FILES[file])}
    assert packages - sys.stdlib_module_names == {"dinov2lab", "pydantic", "ruamel"}


@pytest.mark.parametrize("file", FILES)
def test_only_the_terminal_prints(file: str) -> None:
    calls = {
        node.func.id for node in ast.walk(FILES[file]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert file in PRINTING or "print" not in calls


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith("/__init__.py")])
def test_packages_are_empty(file: str) -> None:
    assert not FILES[file].body


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("cli", "torch timm mlflow optuna pandas scipy matplotlib pydantic ruamel rich numpy"),
        ("commands", "torch timm mlflow optuna pandas scipy matplotlib"),
        ("evaluating", "torch timm mlflow optuna pandas scipy matplotlib"),
        ("searching", "torch timm mlflow optuna pandas scipy matplotlib"),
        ("lab.search", "torch timm mlflow pandas scipy sklearn matplotlib"),
        ("spec.run", "torch timm mlflow optuna pandas scipy matplotlib numpy"),
        ("store.manifest", "torch timm mlflow optuna pandas scipy matplotlib"),
        ("report.render", "torch timm mlflow"),
        ("lab.worker", "timm torchvision torch._dynamo sympy mlflow optuna pandas"),
    ],
)
def test_what_a_module_drags_in(module: str, unwanted: str) -> None:
    script = f"import sys, dinov2lab.{module}; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT.parent).split()
    assert not set(unwanted.split()) & set(modules)


def test_every_test_file_has_a_name_of_its_own() -> None:
    """They are imported by their bare names: of two that share one, the second would not be run."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
