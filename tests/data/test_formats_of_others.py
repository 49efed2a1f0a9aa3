"""WebDataset's tars and Hugging Face's Parquet files are sources; what is damaged or unsafe in them is a counted row."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov2lab.data.source import Roots, Source, Unreadable, open_source


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    (tmp_path / "data").mkdir()
    return Roots(data=tmp_path / "data", cache=tmp_path / "cache")


def tar(file: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(source: Source) -> list[bytes | str]:
    """Of each row, the bytes, or why there are none."""

    def content(index: int) -> bytes | str:
        try:
            return source.read(index)
        except Unreadable as error:
            return error.reason

    return [content(index) for index in range(len(source.paths))]


class TestWebDataset:
    def test_shards_with_labels(self, roots: Roots) -> None:
        tar(roots.data / "b.tar", ("0.jpg", b"four"), ("0.cls", b"10"), ("0.json", b"{}"))
        tar(roots.data / "a.tar", ("0.png", b"one"), ("0.cls", b"2\n"), ("sub/0.cls", b"10"), ("sub/0.jpeg", b"two"))
        source = open_source("webdataset:*.tar", roots)
        assert source.paths == ("a.tar/0.png", "a.tar/sub/0.jpeg", "b.tar/0.jpg")
        assert contents(source) == [b"one", b"two", b"four"]
        assert source.classes == ("2", "10")
        assert source.labels is not None
        assert source.labels.tolist() == [0, 1, 1]
        again = pickle.loads(pickle.dumps(source))
        assert contents(again) == contents(source)
        assert again.fingerprint() == source.fingerprint()

    def test_other_members_of_a_sample_are_no_images(self, roots: Roots) -> None:
        tar(
            roots.data / "a.tar", ("0.jpg", b"one"), ("0.seg.png", b"mask"), ("0.txt", b"words"), (".hidden.jpg", b"no")
        )
        source = open_source("webdataset:a.tar", roots)
        assert contents(source) == [b"one"]
        assert source.labels is None

    def test_unsafe_members_are_counted_and_never_followed(self, roots: Roots, tmp_path: Path) -> None:
        (tmp_path / "secret.jpg").write_bytes(b"secret")
        tar(
            roots.data / "a.tar",
            ("../up.jpg", b"up"),
            ("/root.jpg", b"root"),
            special("link.jpg", tarfile.SYMTYPE, "../secret.jpg"),
            special("hard.jpg", tarfile.LNKTYPE, "/etc/passwd"),
            special("pipe.jpg", tarfile.FIFOTYPE),
            special("folder.jpg", tarfile.DIRTYPE),
            ("9.cls", b"3"),
            ("good.jpg", b"good"),
            ("good.cls", b"3"),
            ("good.jpg", b"twice"),
        )
        source = open_source("webdataset:a.tar", roots)
        found = dict(zip(source.paths, contents(source), strict=True))
        assert found == {
            "a.tar/../up.jpg": "outside",
            "a.tar//root.jpg": "outside",
            "a.tar/link.jpg": "outside",
            "a.tar/hard.jpg": "outside",
            "a.tar/pipe.jpg": "not_an_image",
            "a.tar/9": "empty",
            "a.tar/good.jpg": b"good",
            "a.tar/good.jpg#2": b"twice",
        }
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "data", "secret.jpg"]

    def test_an_archive_cut_short_has_what_came_before_and_one_row_for_the_rest(self, roots: Roots) -> None:
        whole = tar(
            roots.data / "a.tar", *((f"{index}.jpg", bytes([65 + index]) * 600) for index in range(3))
        ).read_bytes()
        for length, last in ((2 * 1536 + 700, "truncated"), (2 * 1536 + 512, "truncated"), (2 * 1536, "truncated")):
            (roots.data / "a.tar").write_bytes(whole[:length])
            assert contents(open_source("webdataset:a.tar", roots)) == [b"A" * 600, b"B" * 600, last]

    def test_damage_between_members_is_a_row(self, roots: Roots) -> None:
        file = tar(roots.data / "a.tar", *((f"{index}.jpg", bytes([65 + index]) * 600) for index in range(3)))
        content = bytearray(file.read_bytes())
        content[1536 : 1536 + 512] = b"\xff" * 512
        file.write_bytes(content)
        source = open_source("webdataset:a.tar", roots)
        assert contents(source) == [b"A" * 600, "corrupt"]
        assert source.paths[1] == "a.tar/corrupt from byte 1536"

    def test_what_is_no_tar_is_one_line(self, roots: Roots) -> None:
        (roots.data / "a.tar").write_bytes(b"hello" * 300)
        with pytest.raises(ValueError, match=r"a\.tar: not a tar file, or a broken one$"):
            open_source("webdataset:a.tar", roots)
        with tarfile.open(roots.data / "b.tar", "w:gz"):
            pass
        with pytest.raises(ValueError, match="a compressed one must be unpacked first"):
            open_source("webdataset:b.tar", roots)
        tar(roots.data / "c" / "0.tar", ("readme", b""))
        with pytest.raises(ValueError, match=r"webdataset:c/\*\.tar reads the files in it"):
            open_source("webdataset:c", roots)
        tar(roots.data / "d.tar", ("0.jpg", b"a"), ("0.cls", b"1"), ("1.jpg", b"b"))
        with pytest.raises(ValueError, match=r"1 of 2 images have no \.cls, as d\.tar/1\.jpg"):
            open_source("webdataset:d.tar", roots)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(place=st.integers(0, 5 * 1024 - 1), value=st.integers(0, 255), length=st.integers(600, 5 * 1024))
    def test_no_damage_raises_anything_but_one_line(self, roots: Roots, place: int, value: int, length: int) -> None:
        file = tar(roots.data / "h.tar", ("0.jpg", b"A" * 600), ("0.cls", b"1"), ("1.jpg", b"B" * 10), ("1.cls", b"2"))
        content = bytearray(file.read_bytes())
        content[place] = value
        file.write_bytes(content[:length])
        try:
            source = open_source("webdataset:h.tar", roots)
        except ValueError as error:
            said = str(error)
        else:
            said = ""
            assert len(contents(source)) == len(set(source.paths))
        assert "\n" not in said


def hugging(
    file: Path, images: list[dict[str, object] | None], labels: list[int] | None, names: list[str] | None
) -> None:
    """A Parquet file as the data sets library writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table(
        {"image": pa.array(images, struct)} | ({} if labels is None else {"label": pa.array(labels, pa.int64())})
    )
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    pq.write_table(table.replace_schema_metadata(metadata), file, row_group_size=2)


class TestHuggingFace:
    def test_structs_class_names_and_names_that_repeat(self, roots: Roots) -> None:
        for shard in (0, 1):
            images = [{"bytes": f"{shard}{row}".encode(), "path": "same.jpg" if row else None} for row in range(3)]
            hugging(roots.data / f"train-{shard}.parquet", images, [1, 0, 1], ["zebra", "ant"])
        source = open_source("parquet:train-*.parquet", roots)
        assert contents(source) == [b"00", b"01", b"02", b"10", b"11", b"12"]
        assert source.paths[:2] == ("train-0.parquet/0000000", "train-0.parquet/0000001 same.jpg")
        assert len(set(source.paths)) == 6
        assert source.classes == ("ant", "zebra")
        np.testing.assert_array_equal(source.labels, [0, 1, 0] * 2)
        assert contents(pickle.loads(pickle.dumps(source))) == contents(source)

    def test_what_is_not_there_is_counted(self, roots: Roots) -> None:
        images = [
            {"bytes": None, "path": "/etc/passwd"},
            {"bytes": None, "path": None},
            None,
            {"bytes": b"x", "path": "x.png"},
        ]
        hugging(roots.data / "a.parquet", images, None, None)
        assert contents(open_source("parquet:a.parquet", roots)) == ["outside", b"", b"", b"x"]

    def test_a_test_split_without_labels(self, roots: Roots) -> None:
        hugging(roots.data / "a.parquet", [{"bytes": b"x", "path": None}] * 2, [-1, -1], ["zebra", "ant"])
        assert open_source("parquet:a.parquet", roots).labels is None

    def test_files_that_name_classes_otherwise(self, roots: Roots) -> None:
        hugging(roots.data / "a.parquet", [{"bytes": b"x", "path": None}], [0], ["zebra", "ant"])
        hugging(roots.data / "b.parquet", [{"bytes": b"x", "path": None}], [0], ["ant", "zebra"])
        with pytest.raises(ValueError, match="name the classes otherwise"):
            open_source("parquet:*.parquet", roots)
