"""torchvision's data sets by name, and the ground truth of revisited Oxford and Paris, from files that nobody downloads."""

import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from dinov2lab.data.revisited import Truth
from dinov2lab.data.source import Missing, Roots, Unreadable, open_source


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path, tmp_path / "cache")


def pixels(source: Any, row: int) -> np.ndarray:
    with Image.open(io.BytesIO(source.read(row))) as image:
        return np.asarray(image)


def write_idx(file: Path, values: np.ndarray) -> None:
    """As MNIST has it: magic number, shape, bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = (0x800 + values.ndim).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in values.shape)
    file.write_bytes(head + values.astype(np.uint8).tobytes())


def mnist(root: Path, count: int = 12) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 255, (count, 28, 28))
    for part in ("train", "t10k"):
        write_idx(root / f"MNIST/raw/{part}-images-idx3-ubyte", images)
        write_idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return images


def test_a_data_set_in_memory(roots: Roots) -> None:
    images = mnist(roots.data)
    source = open_source("torchvision:MNIST?split=test", roots)
    assert len(source.paths) == len(set(source.paths)) == 12
    assert source.classes == tuple(datasets.MNIST.classes)
    assert source.labels is not None
    assert source.labels.tolist() == (np.arange(12) % 10).tolist()
    assert np.array_equal(pixels(source, 3), images[3])
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint()
    other = open_source("torchvision:MNIST?split=train", roots).fingerprint()
    images[5, 5, 5] += 1
    write_idx(roots.data / "MNIST/raw/t10k-images-idx3-ubyte", images)
    assert len({source.fingerprint(), other, open_source("torchvision:MNIST?split=test", roots).fingerprint()}) == 3


def test_cifar10_as_its_archive_unpacks(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = roots.data / "cifar-10-batches-py"
    folder.mkdir()
    values = np.random.default_rng(1).integers(0, 255, (6, 3072), dtype=np.uint8)
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def put(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    parts = [
        [name, put(name, {"data": values, "labels": [0, 1, 2, 9, 9, 0]})] for name in ("data_batch_1", "test_batch")
    ]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", parts[:1])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", parts[1:])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": put("batches.meta", {"label_names": names})}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    source = open_source("torchvision:CIFAR10?split=test", roots)
    assert source.labels is not None
    assert [source.classes[label] for label in source.labels] == ["plane", "car", "bird", "truck", "truck", "plane"]
    assert np.array_equal(pixels(source, 2), values[2].reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_data_set_of_files_with_an_option_of_its_own(roots: Roots) -> None:
    root = roots.data / "dtd/dtd"
    (root / "labels").mkdir(parents=True)
    names = [f"{kind}/{kind}_{number}.jpg" for kind in ("zig", "banded") for number in range(3)]
    for place, name in enumerate(names):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (40 * place, 0, 0)).save(root / "images" / name)
    (root / "labels/test2.txt").write_text("\n".join(names))
    source = open_source("torchvision:DTD?split=test&partition=2", roots)
    assert source.classes == ("banded", "zig")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert pixels(source, 5).shape == (7, 9, 3)
    (root / "images" / names[4]).unlink()
    with pytest.raises(Unreadable):
        source.read(4)


def test_what_is_not_there_is_missing_and_what_is_misspelt_is_a_mistake(roots: Roots) -> None:
    with pytest.raises(Missing, match=r"there is no CIFAR10 in .* as torchvision lays it out \(Dataset not found"):
        open_source("torchvision:CIFAR10?split=test", roots)
    mnist(roots.data)
    for uri, words in (
        ("torchvision:CIFAR11", "did you mean CIFAR100?|did you mean CIFAR10?"),
        ("torchvision:MNIST?split=val", "split is train or test"),
        ("torchvision:MNIST?download=true", "no option 'download'; there are split"),
        ("torchvision:DTD?partition=two", "partition is a number"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            open_source(uri, roots)
        assert not isinstance(error.value, Missing)


# Revisited Oxford and Paris


def truth(box: object = (1.2, 0.6, 6.7, 5.1)) -> dict[str, Any]:
    """In the published form: numbers in arrays."""
    gnd = [
        {"bbx": list(box), "easy": np.array([0, 2]), "hard": np.array([3]), "junk": np.array([1])},  # type: ignore[call-overload]
        {"bbx": [0.0, 0.0, 8.0, 6.0], "easy": np.array([], np.int64), "hard": np.array([4, 1], np.int32), "junk": []},
    ]
    return {"imlist": [f"all_souls_{n:06d}" for n in range(5)], "qimlist": ["q_1", "q_2"], "gnd": gnd}


def write_revisited(folder: Path, record: object, protocol: int = 2, name: str = "gnd_roxford5k.pkl") -> None:
    (folder / "jpg").mkdir(parents=True, exist_ok=True)
    plain = truth()
    for place, image in enumerate((*plain["imlist"], *plain["qimlist"])):
        Image.new("RGB", (8, 6), (30 * place, 9, 9)).save(folder / f"jpg/{image}.jpg")
    (folder / name).write_bytes(pickle.dumps(record, protocol))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_the_ground_truth_is_read_from_a_pickle_of_any_protocol(roots: Roots, protocol: int) -> None:
    write_revisited(roots.data / "roxford5k", truth(), protocol)
    source = open_source("revisited:roxford5k", roots)
    assert source.truth == (Truth((0, 2), (3,), (1,)), Truth((), (4, 1), ()))  # type: ignore[attr-defined]
    assert source.paths[0] == "gallery/all_souls_000000"
    assert source.paths[5:] == ("query/q_1", "query/q_2")
    assert pixels(source, 0).shape == (6, 8, 3)
    assert pixels(source, 5).shape == (4, 6, 3), "a query is cut to its box"
    assert source.labels is None
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()


def test_and_from_json(roots: Roots) -> None:
    write_revisited(roots.data / "rparis6k", truth())
    (roots.data / "rparis6k/gnd_roxford5k.pkl").unlink()
    plain = json.dumps(truth(), default=lambda array: array.tolist())
    (roots.data / "rparis6k/gnd.json").write_text(plain)
    assert open_source("revisited:rparis6k", roots).truth[0] == Truth((0, 2), (3,), (1,))  # type: ignore[attr-defined]


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/dinov2lab-was-here",)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Hostile(), "it names posix.system, which no ground truth needs"),
        (truth() | {"gnd": [np.array([Hostile()], object)]}, "which no ground truth needs|not numbers"),
        (truth() | {"gnd": [np.array([None])]}, "not numbers"),
        ([1], "no mapping with imlist"),
        (truth() | {"qimlist": ["q_1"]}, "1 queries, and the truth of 2"),
        (truth() | {"imlist": ["../../etc/passwd"] * 5}, "leads out of the folder"),
        (truth() | {"imlist": ["a"]}, "names a place beyond its gallery of 1"),
        (truth((5, 0, 1, 3)), "the box of q_1 is none"),
    ],
)
def test_a_file_that_is_no_ground_truth_is_a_line_and_calls_nothing(roots: Roots, record: object, words: str) -> None:
    write_revisited(roots.data / "x", record)
    with pytest.raises(ValueError, match=words):
        open_source("revisited:x", roots)
    assert not Path("/tmp/dinov2lab-was-here").exists()


def test_without_a_folder_or_a_ground_truth_it_is_missing(roots: Roots) -> None:
    with pytest.raises(Missing, match="there is no"):
        open_source("revisited:gone", roots)
    (roots.data / "bare").mkdir()
    with pytest.raises(Missing, match="no ground truth"):
        open_source("revisited:bare", roots)
