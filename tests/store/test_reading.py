"""Files that a bad disk has cut or overwritten: one line names the file and says what makes it anew, whoever reads it."""

from collections.abc import Callable
from pathlib import Path

import fabricated
import pytest

from dinov2lab.report.render import write_report
from dinov2lab.spec.study import expand
from dinov2lab.store import links
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import Manifest, ManifestFolder
from dinov2lab.store.result import RunFolder

READERS: dict[str, Callable[[RunFolder], object]] = {
    "result.json": RunFolder.outcome,
    "provenance.json": RunFolder.read_provenance,
    "metrics.jsonl": RunFolder.rows,
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace, study = Workspace(tmp_path / "lab"), fabricated.study(seeds=1)
    for cell in expand(study):
        fabricated.start(workspace, cell, 20)
        fabricated.finish(workspace, cell)
    return workspace


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def overwrite(file: Path) -> None:
    """As a power cut leaves a block that was never written."""
    content = file.read_bytes()
    file.write_bytes(content[:30] + bytes(40) + content[70:])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [(name, overwrite) for name in READERS] + [("result.json", cut), ("provenance.json", cut)],
)  # half a last line of metrics.jsonl is no damage: a kill leaves it
def test_a_damaged_file_of_a_run_is_one_line(workspace: Workspace, name: str, spoil: Callable[[Path], None]) -> None:
    folder = workspace.run(expand(fabricated.study(seeds=1))[0].run)
    spoil(folder.path / name)
    with pytest.raises(ValueError) as error:
        READERS[name](folder)
    assert str(error.value).startswith(f"{folder.path / name}: damaged (")
    assert "delete" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_report_names_it(workspace: Workspace, tmp_path: Path) -> None:
    study = fabricated.study(seeds=1)
    folder = workspace.run(expand(study)[0].run)
    overwrite(folder.provenance)
    with pytest.raises(ValueError, match=rf"^{folder.provenance}: damaged \("):
        write_report(study, workspace, tmp_path / "report")


@pytest.mark.parametrize("name", ["manifest.json", "funnel.json", "kept.parquet"])
def test_a_damaged_cache_entry_is_one_line(tmp_path: Path, name: str) -> None:
    folder = ManifestFolder(tmp_path / "m")
    folder.path.mkdir()
    readers = {
        "manifest.json": folder.read,
        "funnel.json": folder.funnel,
        "kept.parquet": lambda: folder.table("kept"),
    }
    record = Manifest(id="a", parent=None, stage="read", parameters={}, rows=1, dropped={})
    (folder.path / name).write_text(record.model_dump_json()[:-9])
    with pytest.raises(ValueError) as error:
        readers[name]()
    assert str(error.value).startswith(f"{folder.path / name}: damaged (")
    assert str(error.value).endswith(
        "delete the folder that it lies in, and the next `dinov2lab run` computes that again"
    )
    assert len(str(error.value).splitlines()) == 1


def test_damaged_links_are_none_until_the_next_mirror(workspace: Workspace) -> None:
    links.keep("s", {"run": "http://127.0.0.1:5000/x"}, workspace)
    cut(workspace.links("s"))
    assert links.links("s", workspace) == {}
    links.keep("s", {"run": "http://127.0.0.1:5000/x"}, workspace)
    assert links.links("s", workspace) == {"run": "http://127.0.0.1:5000/x"}
