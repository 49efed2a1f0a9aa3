"""curate() end to end on a small web: what falls, why, and what is shared, resumed and repeated."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from curated import Lab, column, fates, record, without_row
from memory import MemorySource, encoded, flat, picture
from PIL import Image

from dinov2lab.curation.gallery import write_examples
from dinov2lab.curation.scan import pixel_key
from dinov2lab.data.source import Source, decode
from dinov2lab.draws import Key
from dinov2lab.spec.curation import CurationSpec, Duplicates, Leaks, Retrieve, Sample
from dinov2lab.spec.embedders import Embedder, Layout, Thumbnails, TimmEmbedder

LEAKS = Leaks(against=("memory:test",))
DUPLICATES = Duplicates(stage="duplicates")


def test_without_a_spec_what_cannot_be_read_is_counted(lab, pool):
    folder = lab.curate(pool, None)
    assert record(folder).dropped == {"empty": 1, "not_an_image": 1, "truncated": 1, "vanished": 1}
    assert record(folder).parent is None
    dropped = dict(zip(column(folder, "dropped"), column(folder, "dropped", "reason"), strict=True))
    assert dropped == {"bad/cut": "truncated", "bad/empty": "empty", "bad/gone": "vanished", "bad/text": "not_an_image"}
    assert column(folder, "kept") == sorted(set(pool.paths) - set(dropped))
    rows = column(folder, "kept", "row")
    assert [pool.paths[row] for row in rows] == column(folder, "kept")


def test_every_image_is_read_once(lab, pool):
    lab.curate(pool, CurationSpec(leaks=LEAKS, stages=(DUPLICATES,)))
    assert pool.reads == len(pool.paths)


def test_copies_of_what_has_leaked_are_told_of_and_stand_for_nobody(tmp_path):
    twins = {name: encoded(picture(7)) for name in ("a/leaked", "b/leaked")} | {"c/other": encoded(picture(8))}
    pool = MemorySource("memory:pool", {**twins, "d/other": encoded(picture(8))})
    lab = Lab(tmp_path, MemorySource("memory:test", {"t": encoded(picture(7))}))
    folder = lab.curate(pool, CurationSpec(leaks=LEAKS, stages=(DUPLICATES,)))
    assert [(row["a"], row["b"]) for row in folder.table("pairs").to_pylist()] == [
        ("a/leaked", "b/leaked"),
        ("c/other", "d/other"),
    ]
    assert column(folder, "kept") == ["c/other"]
    assert {path: fate["reason"] for path, fate in fates(folder).items()} == {
        "a/leaked": "leak",
        "b/leaked": "leak",
        "d/other": "duplicate",
    }


def test_copies_of_evaluation_images_fall_first(lab, pool):
    folder = lab.curate(pool, CurationSpec(leaks=LEAKS))
    leaks = dict(zip(column(folder, "leaks"), column(folder, "leaks", "reference"), strict=True))
    assert leaks == {
        "leak/exact": "memory:test t100",
        "leak/jpeg": "memory:test t101",
        "leak/mirrored": "memory:test t102",
    }
    assert record(folder).dropped == {"leak": 3}
    assert fates(folder)["leak/mirrored"]["witness"] == "memory:test t102"
    assert not set(leaks) & set(column(folder, "kept"))


def test_duplicates_fall_and_name_who_stands_for_them(lab, pool):
    folder = lab.curate(pool, CurationSpec(stages=(DUPLICATES,)))
    pairs = {(row["a"], row["b"]): row["score"] for row in folder.table("pairs").to_pylist()}
    assert set(pairs) == {
        ("copy/bytes", "copy/pixels"),
        ("copy/bytes", "p03"),
        ("copy/pixels", "p03"),
        ("copy/jpeg", "p04"),
        ("copy/resized", "p05"),
        ("copy/mirrored", "p06"),
        ("blank/white", "blank/white_too"),
    }
    exact = [pair for pair, score in pairs.items() if score == 1.0]
    assert {("copy/bytes", "copy/pixels"), ("copy/bytes", "p03"), ("blank/white", "blank/white_too")} <= set(exact)
    assert record(folder).dropped == {"duplicate": 6}
    gone = {path: row["witness"] for path, row in fates(folder).items() if row["reason"] == "duplicate"}
    assert gone["p03"] == gone["copy/pixels"] == "copy/bytes"
    assert set(gone.values()) <= set(column(folder, "kept"))


def test_blank_images_of_different_colours_are_kept(lab, pool):
    kept = column(lab.curate(pool, CurationSpec(stages=(DUPLICATES,))), "kept")
    assert {"blank/white", "blank/grey", "blank/red", "blank/dark_red"} <= set(kept)


def test_retrieval_keeps_score_and_witness_of_what_it_takes(lab, pool):
    queries = MemorySource("memory:queries", {f"q{seed}": encoded(picture(seed), "JPEG") for seed in (8, 9, 10)})
    lab.sources["memory:queries"] = queries
    stage = Retrieve(stage="retrieve", queries="memory:queries", embedder=Thumbnails(), images=3)
    folder = lab.curate(pool, CurationSpec(stages=(stage,)))
    kept = folder.table("kept").to_pylist()
    assert [(row["path"], row["witness"]) for row in kept] == [(f"p{n:02}", f"memory:queries q{n}") for n in (8, 9, 10)]
    assert all(row["score"] > 0.95 for row in kept)
    gone = [row for row in fates(folder).values() if row["reason"] == "not_retrieved"]
    assert len(gone) == record(folder).dropped["not_retrieved"] == 30
    assert all(row["witness"].startswith("memory:queries q") and row["score"] < 0.95 for row in gone)


@pytest.mark.parametrize("embedder", [Thumbnails(), Layout(kind="layout")])
@pytest.mark.parametrize("whiten", [0.0, 0.5])
def test_retrieval_by_share_scores_every_image(lab, pool, whiten, embedder):
    queries = MemorySource("memory:queries", {f"q{seed}": encoded(picture(seed), "JPEG") for seed in (8, 9, 10)})
    lab.sources["memory:queries"] = queries
    by_share = {"rule": "share", "neighbours": 2, "whiten": whiten}
    stage = Retrieve(stage="retrieve", queries="memory:queries", embedder=embedder, images=3, **by_share)
    folder = lab.curate(pool, CurationSpec(stages=(stage,)))
    kept = folder.table("kept").to_pylist()
    gone = [row for row in fates(folder).values() if row["reason"] == "not_retrieved"]
    assert len(kept) == 3
    assert len(gone) == 30
    assert {"p08", "p09", "p10"} == {row["path"] for row in kept}
    assert min(row["score"] for row in kept) >= max(row["score"] for row in gone) >= 0


@pytest.mark.parametrize("wrong", [{"per_query": 3, "rule": "share"}, {"neighbours": 5}, {"whiten": 0.5}])
def test_what_a_rule_of_retrieval_does_not_use_is_refused(wrong):
    with pytest.raises(ValueError, match="rule: share"):
        Retrieve(stage="retrieve", queries="memory:queries", embedder=Thumbnails(), images=3, **wrong)


def test_less_than_was_asked_for_is_all_there_is_and_said(lab, pool):
    queries = MemorySource("memory:queries", {"q": encoded(picture(8))})
    lab.sources["memory:queries"] = queries
    stages = (
        Retrieve(stage="retrieve", queries="memory:queries", embedder=Thumbnails(), images=1000),
        Sample(stage="sample", images=500),
    )
    folder = lab.curate(pool, CurationSpec(stages=stages))
    assert [(item.stage, item.counts.get("short")) for item in folder.funnel()] == [
        ("read", None), ("retrieve", 967), ("sample", 467),
    ]  # fmt: skip
    assert record(folder).rows == 33


def test_the_funnel_adds_up(lab, pool):
    spec = CurationSpec(leaks=LEAKS, stages=(DUPLICATES, Sample(stage="sample", images=10)))
    folder = lab.curate(pool, spec)
    funnel = folder.funnel()
    assert [item.stage for item in funnel] == ["read", "leaks", "duplicates", "sample"]
    rows = len(pool.paths)
    for item in funnel:
        rows -= sum(item.dropped.values())
        assert rows == item.rows
    assert [item.parent for item in funnel] == [None, *(item.id for item in funnel[:-1])]
    assert sorted([*column(folder, "kept"), *fates(folder)]) == sorted(pool.paths)
    assert folder.table("pairs").num_rows
    assert folder.table("leaks").num_rows == 3


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_rows_decides_nothing(tmp_path, pool, references, seed):
    spec = CurationSpec(leaks=LEAKS, stages=(DUPLICATES, Sample(stage="sample", images=10)))
    shuffled = pool.only(np.random.default_rng(seed).permutation(pool.paths).tolist())
    one, two = (Lab(tmp_path / str(n), references).curate(source, spec) for n, source in enumerate((pool, shuffled)))
    assert record(one).id == record(two).id
    for name in ("kept", "ledger", "dropped", "pairs", "leaks"):
        a, b = (folder.table(name) for folder in (one, two))
        assert without_row(a) == without_row(b)
    assert [shuffled.paths[row] for row in column(two, "kept", "row")] == column(two, "kept")


def test_arms_share_what_they_have_in_common_and_seeds_all_but_the_sample(lab, pool):
    spec = CurationSpec(leaks=LEAKS, stages=(DUPLICATES, Sample(stage="sample", images=10)))
    first = lab.curate(pool, spec)
    reads = pool.reads
    assert lab.curate(pool, spec).path == first.path
    other = lab.curate(pool, spec, Key(1))
    assert pool.reads == reads
    assert other.path != first.path
    assert record(other).id != record(first).id
    assert record(other).parent == record(first).parent
    stages = [path for path in lab.cache.iterdir() if path.is_dir()]
    assert len(stages) == 6  # two sources as read, leaks, duplicates, two samples


def test_another_source_behind_the_same_name_is_read_again(lab, pool):
    first = lab.curate(pool, None)
    assert lab.curate(pool.only(pool.paths[:5]), None).path != first.path
    assert lab.curate(pool, None).path == first.path


class Network:
    """An embedder that is handed in; counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, embedder: Embedder, source: Source, rows: Sequence[int]) -> np.ndarray:
        self.asked += 1
        assert list(rows) == sorted(rows)
        small = [np.asarray(Image.fromarray(decode(source.read(row))).resize((8, 8)), float).ravel() for row in rows]
        vectors = np.stack(small) - 127.3
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_network_embeds_each_source_once_and_its_mirror_images_once(lab, pool):
    embedder = TimmEmbedder(kind="timm", name="x", px=8)
    network = Network()
    lab.sources["memory:queries"] = MemorySource("memory:queries", {"q": encoded(picture(8))})
    retrieved = Retrieve(stage="retrieve", queries="memory:queries", embedder=embedder, images=5)
    copies = Duplicates(stage="duplicates", embedder=embedder, threshold=0.98)
    folder = lab.curate(pool, CurationSpec(stages=(copies, retrieved)), embed=network)
    assert network.asked == 3  # the pool, its mirror images, the queries
    assert ("copy/mirrored", "p06") in {(row["a"], row["b"]) for row in folder.table("pairs").to_pylist()}
    assert "p08" in column(folder, "kept")
    lab.curate(pool, CurationSpec(stages=(retrieved,)), embed=network)
    assert network.asked == 3


def test_an_embedder_without_finite_vectors_is_named(lab, pool):
    spec = CurationSpec(stages=(Duplicates(stage="duplicates", embedder=TimmEmbedder(kind="timm", name="x")),))
    with pytest.raises(ValueError, match="memory:pool: the timm embedder"):
        lab.curate(pool, spec, embed=lambda embedder, source, rows: np.full((len(rows), 2), np.nan, np.float32))


def test_a_source_without_an_image_is_an_error(lab):
    with pytest.raises(ValueError, match="no image is left for stage 'sample'"):
        lab.curate(MemorySource("memory:none", {"a": b""}), CurationSpec(stages=(Sample(stage="sample", images=1),)))


def test_two_processes_that_ask_at_once_compute_once(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from memory import MemorySource, encoded, picture
        from dinov2lab.curation.cache import stage_folder
        from dinov2lab.curation.scan import scan
        pool = MemorySource("memory:pool", {f"p{n}": encoded(picture(n)) for n in range(300)})
        print("ready", flush=True)
        sys.stdin.readline()
        folder = stage_folder(Path(sys.argv[2]), None, "read", {}, lambda: scan(pool, range(300)))
        print(pool.reads, folder.path)
    """)
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    assert [run.stdout.readline() for run in runs if run.stdout] == ["ready\n"] * 2
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    (reads, folder), (other_reads, other_folder) = (run.communicate(timeout=120)[0].split() for run in runs)
    assert folder == other_folder
    assert {reads, other_reads} == {"0", "300"}


def test_what_a_killed_writer_left_is_swept_and_the_stage_done_anew(tmp_path, pool):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from dinov2lab.store import atomic
        def slow(folder):
            (folder / "kept.parquet").write_text("half")
            print("writing", flush=True)
            time.sleep(60)
        with atomic.locked(Path(sys.argv[1]) / "abc.lock"):
            atomic.write_folder(Path(sys.argv[1]) / "abc", slow)
    """)
    lab = Lab(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", script, str(lab.cache)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    lab.curate(pool, None)
    assert len(list(lab.cache.glob(".abc.*.tmp"))) == 1  # its writer lives
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    lab.curate(pool, None)
    assert not list(lab.cache.glob(".*.tmp"))
    assert not (lab.cache / "abc").exists()


def test_blank_images_of_one_colour_are_equal_at_any_size():
    white, larger, grey = (
        np.asarray(flat((v, v, v), size)) for v, size in ((255, (3, 3)), (255, (9, 5)), (254, (3, 3)))
    )
    assert pixel_key(white) == pixel_key(larger) != pixel_key(grey)
    one = np.arange(48, dtype=np.uint8)
    assert pixel_key(one.reshape(4, 4, 3)) != pixel_key(one.reshape(2, 8, 3))
    lined = np.asarray(flat((255, 255, 255), (3, 3))).copy()
    lined[2] = 0
    assert pixel_key(lined) == hashlib.sha256(b"(3, 3, 3)" + lined.tobytes()).hexdigest()  # caches hold such keys


def test_examples_show_some_of_each_reason_beside_their_witness(lab, pool, references):
    folder = lab.curate(pool, CurationSpec(leaks=LEAKS, stages=(DUPLICATES,)))
    file = write_examples(folder, pool, 4, open=lab.sources.__getitem__)
    examples = json.loads(file.read_text())
    assert set(examples) == {"kept", "duplicate", "leak", "empty", "not_an_image", "truncated", "vanished"}
    assert len(examples["kept"]) == len(examples["duplicate"]) == 4
    for row in (*examples["leak"], *examples["duplicate"]):
        for name in ("file", "witness_file"):
            with Image.open(folder.path / row[name]) as image:
                assert max(image.size) <= 96
    assert {row["witness"] for row in examples["leak"]} == {f"memory:test t{n}" for n in (100, 101, 102)}
    assert examples["vanished"] == [
        {"path": "bad/gone", "file": None, "score": None, "witness": None, "witness_file": None}
    ]
    reads = pool.reads
    assert write_examples(folder, pool, 4) == file
    assert pool.reads == reads
