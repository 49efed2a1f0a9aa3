"""A URI becomes rows in a fixed order, or one clear error."""

import os
import pickle
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov2lab.data import parquet
from dinov2lab.data.source import (
    MAX_BYTES,
    FolderSource,
    ParquetSource,
    Roots,
    Unreadable,
    decode,
    labels_as,
    open_source,
)
from dinov2lab.data.toyweb import materialise

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_pool = pytest.mark.skipif(not (SHARED / "web_pool").is_dir(), reason="needs ../shared/data/web_pool")


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    (tmp_path / "data").mkdir()
    return Roots(data=tmp_path / "data", cache=tmp_path / "cache")


def write(root: Path, *names: str) -> None:
    """Files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def table(file: Path, paths: list[str | None], rows: int = 2, **columns: object) -> None:
    """A Parquet file whose images hold their own paths, in groups of `rows`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([None if path is None else path.encode() for path in paths], pa.binary())
    pq.write_table(
        pa.table({"path": pa.array(paths, pa.string()), "image": images, **columns}), file, row_group_size=rows
    )


def message(uri: str, roots: Roots) -> str:
    with pytest.raises(ValueError) as caught:
        open_source(uri, roots)
    text = str(caught.value)
    assert text.count("\n") <= 1
    return text


def reason(source: FolderSource, path: str) -> str | None:
    try:
        source.read(source.paths.index(path))
    except Unreadable as error:
        return error.reason
    return None


# folders


def test_a_folder_of_classes(roots: Roots) -> None:
    write(roots.data, "pets/dog/b.jpg", "pets/cat/deep/a.PNG", "pets/cat/z", "pets/dog/a.odd")
    source = open_source("folder:pets", roots)
    assert source.paths == ("cat/deep/a.PNG", "cat/z", "dog/a.odd", "dog/b.jpg")
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert [source.read(i).decode() for i in range(4)] == [f"pets/{path}" for path in source.paths]
    assert open_source(f"folder:{roots.data / 'pets'}", Roots(Path("elsewhere"), roots.cache)).paths == source.paths


def test_one_image_without_a_folder_and_there_are_no_classes(roots: Roots) -> None:
    write(roots.data, "pets/dog/b.jpg", "pets/a.jpg")
    source = open_source("folder:pets", roots)
    assert source.paths == ("a.jpg", "dog/b.jpg")
    assert source.labels is None
    assert source.classes == ()


def test_hidden_files_and_sidecars_are_no_rows(roots: Roots) -> None:
    sidecars = ["a.txt", "a.json", "a.CSV", "README.md", "a.xml", "a.parquet"]
    write(roots.data, "a.jpg", ".DS_Store", ".thumbs/a.jpg", "sub/.hidden.jpg", *sidecars)
    assert open_source("folder:.", roots).paths == ("a.jpg",)


def test_links_neither_hang_nor_escape(roots: Roots, tmp_path: Path) -> None:
    write(tmp_path, "secret/a.jpg")
    write(roots.data, "pool/real.jpg")
    pool = roots.data / "pool"
    for name, target in {
        "loop": pool,
        "up": tmp_path,
        "secret": tmp_path / "secret",
        "self": Path("self"),
        "gone.jpg": pool / "nothing.jpg",
        "out.jpg": tmp_path / "secret" / "a.jpg",
        "in.jpg": Path("real.jpg"),
        "zero.jpg": Path("/dev/zero"),
    }.items():
        (pool / name).symlink_to(target)
    source = FolderSource("folder:pool", pool)
    assert source.paths == ("gone.jpg", "in.jpg", "out.jpg", "real.jpg", "self", "zero.jpg")
    assert [reason(source, path) for path in source.paths] == ["vanished", None, "outside", None, "vanished", "outside"]
    assert source.read(1) == source.read(3)
    assert len(source.fingerprint()) == 64


def test_pipes_sockets_and_huge_files_are_not_read(roots: Roots) -> None:
    os.mkfifo(roots.data / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener, (roots.data / "film.mp4").open("wb") as film:
        listener.bind(os.path.relpath(roots.data / "socket.jpg"))
        film.truncate(MAX_BYTES + 1)  # sparse: takes no space
        source = FolderSource("folder:.", roots.data)
        assert [reason(source, path) for path in source.paths] == ["too_large", "not_an_image", "not_an_image"]


def test_a_file_that_vanishes_is_unreadable(roots: Roots) -> None:
    write(roots.data, "a.jpg", "b.jpg")
    source = FolderSource("folder:.", roots.data)
    (roots.data / "a.jpg").unlink()
    assert reason(source, "a.jpg") == "vanished"
    assert reason(source, "b.jpg") is None


def test_names_that_are_no_text_become_text(roots: Roots) -> None:
    name = os.fsdecode(b"caf\xe9 \xf0\x9f\x90\x88.jpg")
    (roots.data / name).write_bytes(b"cat")
    source = open_source("folder:.", roots)
    assert source.paths == ("caf\\xe9 🐈.jpg",)
    assert source.read(0) == b"cat"
    assert len(source.fingerprint()) == 64


def test_a_folders_fingerprint_follows_its_files(roots: Roots) -> None:
    write(roots.data, "a.jpg", "b.jpg")
    prints = [open_source("folder:.", roots).fingerprint() for _ in range(2)]
    os.utime(roots.data / "a.jpg", ns=(1, 1))
    prints.append(open_source("folder:.", roots).fingerprint())
    (roots.data / "b.jpg").rename(roots.data / "c.jpg")
    prints.append(open_source("folder:.", roots).fingerprint())
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


# Parquet


def test_parquet_rows_in_any_order(roots: Roots) -> None:
    paths: list[str | None] = [f"{i}.jpg" for i in range(7)]
    table(roots.data / "a.parquet", paths)
    source = open_source("parquet:a.parquet", roots)
    assert source.uri == "parquet:a.parquet"
    assert source.paths == tuple(paths)
    assert source.labels is None
    for index in (6, 0, 3, 3, 5, 1, 2, 4):
        assert source.read(index) == f"{index}.jpg".encode()
    for index in (-1, 7):
        with pytest.raises(IndexError):
            source.read(index)


def test_a_glob_joins_files_by_name(roots: Roots) -> None:
    table(roots.data / "x/part-1.parquet", ["c", "d", "e"], label=pa.array(["dog", "cat", "dog"]))
    table(
        roots.data / "x/part-0.parquet", ["a", "b"], label=pa.array(["cat", "eel"]).dictionary_encode().cast("string")
    )
    source = open_source("parquet:x/*.parquet", roots)
    assert source.paths == ("a", "b", "c", "d", "e")
    assert source.classes == ("cat", "dog", "eel")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 2, 1, 0, 1]
    assert [source.read(i) for i in range(5)] == [b"a", b"b", b"c", b"d", b"e"]


def test_a_name_with_brackets_is_a_name_first(roots: Roots) -> None:
    table(roots.data / "a[1].parquet", ["a"])
    assert open_source("parquet:a[1].parquet", roots).paths == ("a",)
    table(roots.data / "[odd]" / "a.parquet", ["b"])
    assert open_source("parquet:*.parquet", Roots(roots.data / "[odd]", roots.cache)).paths == ("b",)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint32()])
def test_integer_labels(roots: Roots, kind: pa.DataType) -> None:
    table(roots.data / "a.parquet", ["a", "b", "c", "d"], label=pa.array([10, 9, 10, 3], kind))
    source = open_source("parquet:a.parquet", roots)
    assert source.classes == ("3", "9", "10")  # in the order of numbers
    assert source.labels is not None
    assert source.labels.tolist() == [2, 1, 2, 0]


def test_labels_of_two_sources_meet_by_name(roots: Roots) -> None:
    table(roots.data / "memory.parquet", ["a", "b", "c"], label=pa.array(["ant", "bee", "cat"]))
    table(roots.data / "test.parquet", ["d", "e"], label=pa.array(["cat", "bee"]))
    memory, test = (open_source(f"parquet:{name}.parquet", roots) for name in ("memory", "test"))
    assert test.labels is not None
    assert test.labels.tolist() == [1, 0]
    assert labels_as(test, memory.classes).tolist() == [2, 1]
    with pytest.raises(ValueError, match="'ant' is none of bee, cat"):
        labels_as(memory, test.classes)


def test_null_images_are_empty_and_null_labels_are_none(roots: Roots) -> None:
    columns = {"path": ["a", "b"], "image": pa.array([None, b"b"]), "label": pa.array([None, None], pa.int64())}
    pq.write_table(pa.table(columns), roots.data / "a.parquet")
    source = open_source("parquet:a.parquet", roots)
    assert source.labels is None
    assert (source.read(0), source.read(1)) == (b"", b"b")


def test_a_large_file_is_not_held_whole(roots: Roots) -> None:
    rows = 40
    images = pa.array([bytes([i]) * 2**20 for i in range(rows)], pa.binary())
    pq.write_table(
        pa.table({"path": [f"{i}" for i in range(rows)], "image": images}),
        roots.data / "a.parquet",
        row_group_size=4,
        compression="none",
        use_dictionary=False,
    )
    source = parquet.ParquetSource("parquet:a.parquet", [roots.data / "a.parquet"], budget=12 * 2**20)
    del images
    before = pa.total_allocated_bytes()
    assert all(source.read(i) == bytes([i]) * 2**20 for i in range(rows))
    assert pa.total_allocated_bytes() - before < 20 * 2**20


def test_a_source_travels_to_workers(roots: Roots) -> None:
    paths: list[str | None] = [f"{i}" for i in range(200)]
    table(roots.data / "a.parquet", paths, rows=10)
    source = open_source("parquet:a.parquet", roots)
    source.read(3)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.paths == source.paths
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.read, range(200))) == [f"{i}".encode() for i in range(200)]


def test_a_parquet_file_that_vanishes_is_unreadable(roots: Roots) -> None:
    table(roots.data / "a.parquet", ["a", "b", "c"])
    source = open_source("parquet:a.parquet", roots)
    (roots.data / "a.parquet").unlink()
    with pytest.raises(Unreadable, match="vanished"):
        source.read(2)


def test_a_parquet_fingerprint_follows_the_content_not_the_place(roots: Roots) -> None:
    for name, paths in {"x/a": ["a", "b"], "y/a": ["a", "b"], "z/a": ["a", "c"]}.items():
        table(roots.data / f"{name}.parquet", list(paths))
    x, y, z = (open_source(f"parquet:{name}/a.parquet", roots).fingerprint() for name in "xyz")
    assert x == y != z


def test_toyweb_is_parquet_under_its_own_name(roots: Roots) -> None:
    uri = "toyweb:pool?images=80&seed=1"
    source = open_source(uri, roots)
    assert source.uri == uri
    assert len(source.paths) == len(
        open_source(f"parquet:{materialise('pool?images=80&seed=1', roots.cache)}", roots).paths
    )
    assert source.fingerprint() == open_source(uri, roots).fingerprint()
    assert source.fingerprint() != open_source("toyweb:pool?images=80", roots).fingerprint()
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()


# errors


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("floder:x", "did you mean folder:x?"),
        ("Parquet:x", "did you mean parquet:x?"),
        ("s3://bucket/x", "parquet:PATH, webdataset:PATH, torchvision:NAME or revisited:PATH"),
        ("images", "toyweb:PART, folder:PATH, parquet:PATH, webdataset:PATH"),
        ("folder:", "folder:PATH"),
        ("", "folder:PATH"),
    ],
)
def test_an_unknown_scheme(roots: Roots, uri: str, says: str) -> None:
    assert says in message(uri, roots)


@pytest.mark.parametrize("scheme", ["folder", "parquet"])
def test_a_missing_path_names_what_was_tried_and_what_is_near(roots: Roots, scheme: str) -> None:
    write(roots.data, "web_pool/pool.parquet")
    for tried, near in {"web_pol/pool.parquet": "'web_pool'", "web_pool/pol.parquet": "'pool.parquet'"}.items():
        text = message(f"{scheme}:{tried}", roots)
        assert str(roots.data / tried) in text
        assert near in text
        assert f"--data-root, now {roots.data}" in text
    assert "--data-root" not in message(f"{scheme}:/no/such/place", roots)
    assert "no\0such" in message(f"{scheme}:no\0such", roots)


def test_the_wrong_kind_of_path(roots: Roots) -> None:
    table(roots.data / "x/a.parquet", ["a"])
    assert "did you mean parquet:x/a.parquet?" in message("folder:x/a.parquet", roots)
    assert "parquet:x/*.parquet reads the files in it" in message("parquet:x", roots)


def test_a_folder_without_images(roots: Roots) -> None:
    write(roots.data, "x/.hidden", "x/notes.txt")
    assert "no images in" in message("folder:x", roots)


def test_a_glob_without_matches(roots: Roots) -> None:
    assert f"no file matches {roots.data / 'x' / '*.parquet'}" in message("parquet:x/*.parquet", roots)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"hello", b"PAR1" + bytes(30) + b"PAR1"])
def test_what_is_not_parquet(roots: Roots, content: bytes) -> None:
    (roots.data / "a.parquet").write_bytes(content)
    assert "a.parquet: not a Parquet file" in message("parquet:a.parquet", roots)


def test_columns_that_are_missing_or_of_the_wrong_type(roots: Roots) -> None:
    def says(**columns: object) -> str:
        pq.write_table(pa.table(columns), roots.data / "a.parquet")
        return message("parquet:a.parquet", roots)

    assert "no column 'image' (bytes); its columns are path, images, year. Is it 'images'?" in says(
        path=["a"], images=[b"a"], year=[1]
    )
    assert "no column 'path' (text); its columns are image" in says(image=[b"a"])
    assert "column 'image' holds string, not bytes" in says(path=["a"], image=["a"])
    assert "column 'label' holds double, not integers or text" in says(path=["a"], image=[b"a"], label=[0.5])
    assert "2 of 3 labels are null" in says(path=list("abc"), image=[b"a"] * 3, label=[None, 1, None])
    assert "column 'path' is null in 1 rows" in says(path=["a", None], image=[b"a"] * 2)
    assert "holds no rows" in says(path=pa.array([], pa.string()), image=pa.array([], pa.binary()))


def test_files_that_do_not_fit_together(roots: Roots) -> None:
    table(roots.data / "0.parquet", ["a", "b"], label=pa.array([0, 1]))
    table(roots.data / "1.parquet", ["c"])
    assert "1.parquet: no column 'label', which" in message("parquet:*.parquet", roots)
    table(roots.data / "1.parquet", ["c"], label=pa.array(["x"]))
    assert "integers in some files and text in others" in message("parquet:*.parquet", roots)
    table(roots.data / "1.parquet", ["b"], label=pa.array([1]))
    text = message("parquet:*.parquet", roots)
    assert "the path 'b' stands twice" in text
    assert str(roots.data / "0.parquet") in text
    assert str(roots.data / "1.parquet") in text


# real images


@needs_pool
def test_the_web_pools_corrupt_files_are_all_found_and_no_other() -> None:
    source = open_source("parquet:web_pool/pool.parquet", Roots(SHARED, Path("unused")))
    truth = pq.read_table(SHARED / "web_pool/truth.parquet", columns=["path", "origin", "defect"]).to_pylist()
    defects = {row["path"]: row["defect"] for row in truth if row["origin"] == "corrupt"}
    found = Counter[tuple[str, str]]()
    for index, path in enumerate(source.paths):
        try:
            decode(source.read(index))
            assert path not in defects
        except Unreadable as error:
            found[defects[path], error.reason] += 1
    assert sum(found.values()) == len(defects) == 200
    assert set(found) == {
        ("empty", "empty"),
        ("truncated", "truncated"),
        ("html", "not_an_image"),
        ("noise", "not_an_image"),
    }


def test_a_mask_column_is_read_row_by_row(roots: Roots) -> None:
    table(roots.data / "masked.parquet", ["a", "b"], mask=pa.array([b"one", b"two"]))
    source = open_source("parquet:masked.parquet", roots)
    assert isinstance(source, ParquetSource)
    assert source.masked
    assert [source.mask(row) for row in range(2)] == [b"one", b"two"]
    table(roots.data / "bare.parquet", ["a"])
    bare = open_source("parquet:bare.parquet", roots)
    assert isinstance(bare, ParquetSource)
    assert not bare.masked
