"""What befalls a curation: kills, sources that change, full disks, and company."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curated import Lab, without_row
from memory import MemorySource, encoded, picture
from PIL import Image

from dinov2lab.cli import main
from dinov2lab.curation import arrays, cache, inputs
from dinov2lab.curation.arrays import rows_file
from dinov2lab.data.source import Source, Unreadable, decode
from dinov2lab.spec.curation import CurationSpec, Duplicates, Leaks, Quality, Retrieve, Sample
from dinov2lab.spec.embedders import Embedder, TimmEmbedder

EMBEDDER = TimmEmbedder(kind="timm", name="x", px=8)
SPEC = CurationSpec(stages=(Duplicates(stage="duplicates", embedder=EMBEDDER, threshold=0.98),))


def embed(embedder: Embedder, source: Source, rows: Sequence[int]) -> np.ndarray:
    small = [np.asarray(Image.fromarray(decode(source.read(row))).resize((8, 8)), float).ravel() for row in rows]
    vectors = np.stack(small) - 127.3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def tables(folder) -> list[str]:
    return [without_row(folder.table(name)) for name in ("kept", "ledger", "pairs")]


def test_reading_in_parts_is_reading_as_one(monkeypatch, tmp_path, pool):
    shuffled = pool.only(np.random.default_rng(1).permutation(pool.paths).tolist())
    whole = Lab(tmp_path / "whole").curate(shuffled, CurationSpec(stages=(Duplicates(stage="duplicates"),)))
    monkeypatch.setattr(inputs, "PART", 7)
    parts = Lab(tmp_path / "parts").curate(shuffled, CurationSpec(stages=(Duplicates(stage="duplicates"),)))
    assert tables(parts) == tables(whole)
    assert parts.read().id == whole.read().id


class Flaky(MemorySource):
    """Stops the process, as it were, at one of its reads."""

    stops_at = -1

    def read(self, index: int) -> bytes:
        if self.reads == self.stops_at:
            raise KeyboardInterrupt
        return super().read(index)


def flaky(pool: MemorySource) -> Flaky:
    return Flaky(pool.uri, pool._images)


def test_reading_goes_on_at_the_part_that_was_under_way(monkeypatch, tmp_path, pool):
    monkeypatch.setattr(inputs, "PART", 10)
    source, lab = flaky(pool), Lab(tmp_path)
    source.stops_at = 25
    with pytest.raises(KeyboardInterrupt):
        lab.curate(source, None)
    source.stops_at, source.reads = -1, 0
    lab.curate(source, None)
    assert source.reads == len(pool.paths) - 20


def test_embedding_goes_on_after_the_last_whole_block(monkeypatch, tmp_path, pool):
    monkeypatch.setattr(arrays, "ROWS", 8)
    source, lab = flaky(pool), Lab(tmp_path / "stopped")
    lab.curate(source, None)
    source.reads, source.stops_at = 0, 21
    with pytest.raises(KeyboardInterrupt):
        lab.curate(source, SPEC, embed=embed)
    source.reads, source.stops_at = 0, -1
    asked = []

    def watched(embedder: Embedder, source: Source, rows: Sequence[int]) -> np.ndarray:
        asked.append(len(rows))
        return embed(embedder, source, rows)

    resumed = lab.curate(source, SPEC, embed=watched)
    images = resumed.funnel()[0].rows
    assert sum(asked) == 2 * images - 16  # two blocks of the pool were there; its mirror images were not
    assert max(asked) == 8
    assert tables(resumed) == tables(Lab(tmp_path / "whole").curate(pool, SPEC, embed=embed))


@pytest.mark.parametrize("file", ["kept.parquet", "ledger.parquet", "manifest.json"])
@pytest.mark.parametrize("stop", range(5))
def test_stopped_while_any_stage_is_written_a_curation_goes_on_from_there(monkeypatch, tmp_path, pool, stop, file):
    spec = CurationSpec(
        leaks=Leaks(against=("memory:test",), threshold=0.9, rule="component"),
        stages=(Quality(stage="quality", min_px=8), Duplicates(stage="duplicates"), Sample(stage="sample", images=20)),
    )
    test = MemorySource("memory:test", {"t": encoded(picture(2, (64, 60)))})
    whole = Lab(tmp_path / "whole", test).curate(pool, spec)
    folders, write = [], cache._write

    def stopped(path: Path, *rest: object) -> None:
        folders.append(path)
        write(path, *rest)
        if len(folders) == stop + 1:
            (path / file).write_bytes(b"half of it")
            raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_write", stopped)
    lab = Lab(tmp_path / "stopped", test)
    with pytest.raises(KeyboardInterrupt):
        lab.curate(pool, spec)
    ended = lab.curate(pool, spec)
    assert tables(ended) == tables(whole)
    assert ended.funnel() == whole.funnel()
    assert len(folders) == len(whole.funnel()) + 2  # the test's reading, and the one that was stopped
    assert not list(lab.cache.glob(".*.tmp"))


@pytest.mark.parametrize("keep", [0, 50, 200, 10**6])
def test_rows_are_the_same_whatever_a_kill_left(monkeypatch, tmp_path, keep):
    monkeypatch.setattr(arrays, "ROWS", 4)
    values = np.arange(66, dtype=np.float32).reshape(22, 3)
    whole = rows_file(tmp_path, "a", 22, lambda start, stop: values[start:stop])
    file = next(tmp_path.glob("*.npy"))
    file.with_suffix(".part").write_bytes(file.read_bytes()[:keep])
    file.unlink()
    np.testing.assert_array_equal(rows_file(tmp_path, "a", 22, lambda start, stop: values[start:stop]), whole)
    np.testing.assert_array_equal(whole, values)


@pytest.mark.parametrize(
    "stage",
    [
        Quality(stage="quality", min_px=8),
        Retrieve(stage="retrieve", queries="memory:queries", embedder=EMBEDDER, images=3),
    ],
)
def test_a_source_that_shrinks_between_stages_is_named(lab, pool, stage):
    lab.sources["memory:queries"] = MemorySource("memory:queries", {"q": encoded(picture(8))})
    lab.curate(pool, None)
    pool._images["p05"] = Unreadable("vanished")
    pool.fingerprint = lambda: MemorySource(pool.uri, pool._images | {"p05": encoded(picture(5))}).fingerprint()
    with pytest.raises(ValueError, match=r"memory:pool: .*vanished"):
        lab.curate(pool, CurationSpec(stages=(stage,)), embed=embed)


def cli(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dinov2lab.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    images = [encoded(picture(number % 150, (64, 64))) for number in range(200)]
    paths = [f"{number:03}" for number in range(200)]
    pq.write_table(pa.table({"path": paths, "image": images}), tmp_path / "pool.parquet")
    text = (
        "data: {train: parquet:pool.parquet}\ncuration: {stages: [{stage: quality, min_px: 8}, {stage: duplicates}]}\n"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


def curate(recipe: Path, workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    place = ("--data-root", str(recipe.parent), "--workspace", str(workspace))
    return cli("curate", str(recipe), *place, "--json", *words)


@pytest.mark.system
def test_by_command_a_pool_that_grew_and_shards_end_as_one_pass(recipe, tmp_path, capsys):
    def curated(workspace: str, *words: str) -> str:
        place = ("--data-root", str(tmp_path), "--workspace", str(tmp_path / workspace))
        with pytest.raises(SystemExit, match="0"):
            main(["curate", str(recipe), *place, "--json", *words])
        return json.loads(capsys.readouterr().out)["id"]

    whole = curated("whole")
    images = pq.read_table(tmp_path / "pool.parquet")
    pq.write_table(images.slice(0, 120), tmp_path / "pool.parquet")
    assert curated("grown") != whole
    pq.write_table(images, tmp_path / "pool.parquet")
    assert curated("grown", "--append") == whole
    place = ("--data-root", str(tmp_path), "--workspace", str(tmp_path / "cut"))
    waits = cli("curate", str(recipe), *place, "--shards", "2", "--shard", "1")
    assert waits.stderr.splitlines()[-1] == (
        "read parquet:pool.parquet: 1 of 2 parts are still to come; then the same command once more"
    )
    assert curated("cut", "--shards", "2") == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--shard 2 --shards 2", "--shard 2: with --shards 2 they are numbered from 0 to 1"),
        ("--append --shards 2", "--append and --shards do not go together: what is added is worked on as one"),
        ("--dry-run", "--profile, --slurm and --dry-run are for --launcher slurm"),
    ],
)
def test_what_does_not_go_together_is_one_line(recipe, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as end:
        main(["curate", str(recipe), "--workspace", str(tmp_path / "lab"), *words.split()])
    assert (end.value.code, capsys.readouterr().err) == (2, said + "\n")


@pytest.mark.system
def test_two_curations_that_share_a_cache_end_alike(recipe, tmp_path):
    words = ["curate", str(recipe), "--data-root", str(tmp_path), "--workspace", str(tmp_path / "lab"), "--json"]
    command = [sys.executable, "-m", "dinov2lab.cli", *words]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [json.loads(each.communicate()[0]) for each in both]
    assert said[0] == said[1]
    assert said[0]["funnel"][-1]["dropped"] == {"duplicate": 50}


@pytest.mark.system
def test_killed_at_any_instant_a_curation_ends_as_if_it_had_not_been(recipe, tmp_path):
    whole = json.loads(curate(recipe, tmp_path / "whole").stdout)
    command = ["curate", str(recipe), "--data-root", str(tmp_path), "--workspace", str(tmp_path / "killed")]
    for wait in (1.5, 2.0, 2.5, 3.0, 3.5):
        process = subprocess.Popen([sys.executable, "-m", "dinov2lab.cli", *command], stdout=subprocess.DEVNULL)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    ended = json.loads(curate(recipe, tmp_path / "killed").stdout)
    assert ended["id"] == whole["id"]
    assert ended["funnel"] == whole["funnel"]


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_one_line(recipe, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        said = curate(recipe, disk / "lab")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert said.returncode == 2
    lines = [
        line for line in said.stderr.splitlines() if not line.startswith(("read ", "stage ", "embed ", "measure "))
    ]
    assert len(lines) == 1  # beside how far it was
    assert lines[0].endswith("No space left on device")
    assert str(disk) in lines[0]


@pytest.mark.system
def test_memory_does_not_grow_with_the_pool(tmp_path):
    """The peak of anonymous memory while lists are searched, of vectors that lie in a file."""
    script = textwrap.dedent("""
        import sys, threading, time, numpy as np
        from pathlib import Path
        from dinov2lab.curation import index, neighbours
        size, file = int(sys.argv[1]), Path(sys.argv[2])
        rng, themes = np.random.default_rng(0), np.random.default_rng(1).standard_normal((50, 256))
        out = np.lib.format.open_memmap(file, "w+", np.float32, (size, 256))
        for start in range(0, size, 5000):
            rows = rng.standard_normal((5000, 256)) + 3 * themes[rng.integers(0, 50, 5000)]
            out[start : start + 5000] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        del out
        index.VISIT_BLOCK = neighbours.ASKED = 8192
        vectors, peak = np.load(file, mmap_mode="r"), []
        def watch():
            while True:
                status = Path("/proc/self/status").read_text()
                peak.append(int(status.partition("RssAnon:")[2].split()[0]))
                time.sleep(0.02)
        threading.Thread(target=watch, daemon=True).start()
        neighbours.above(vectors, vectors, 0.97, 64, index.Search(kind="ivf"))
        print(max(peak))
    """)
    sizes = 10_000, 60_000
    words = [[sys.executable, "-c", script, str(size), str(tmp_path / f"{size}.npy")] for size in sizes]
    peaks = [int(subprocess.check_output(each, text=True)) for each in words]
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) * 256 * 4 / 1024 / 2  # half of what the vectors take
