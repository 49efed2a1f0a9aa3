"""What the names in a folder of images tell."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov2lab.beginning.layout import layout_of, read

CLASSES = [f"{name}/{number}.png" for name in ("cats", "dogs") for number in range(3)]


def test_a_folder_for_each_class_and_no_test() -> None:
    found = read(CLASSES)
    assert (found.uri, found.test_uri, dict(found.classes)) == ("folder:images", None, {"cats": 3, "dogs": 3})
    assert (found.images, dict(found.endings), found.notes) == (6, {".png": 6}, ())


@pytest.mark.parametrize("paths", [["a.png", "b.JPG"], [*CLASSES, "loose.png"], ["cats/1.png", "cats/2.png"]])
def test_without_a_folder_for_each_class_there_are_no_labels(paths: list[str]) -> None:
    assert not read(paths).labelled


def test_folders_of_single_files_are_no_classes() -> None:
    found = read([f"{number}/image.png" for number in range(40)])
    assert not found.labelled
    assert found.notes == ("40 folders for 40 files are taken for no classes",)


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Val"), ("train", "validation")])
def test_train_and_test_are_taken_apart(train: str, test: str) -> None:
    found = read([f"{part}/{path}" for part in (train, test) for path in CLASSES])
    assert (found.uri, found.test_uri) == (f"folder:images/{train}", f"folder:images/{test}")
    assert (found.images, found.tested, found.labelled, found.notes) == (6, 6, True, ())


def test_of_test_and_val_the_first_is_tested_on_and_what_is_not_used_is_told() -> None:
    found = read([f"{part}/{path}" for part in ("train", "val", "test") for path in CLASSES])
    assert found.test == "test"
    assert found.notes == ("6 files outside of train/ and test/ are not used",)


def test_a_test_set_that_cannot_be_one_is_not_used_and_the_reason_told() -> None:
    train = [f"train/{path}" for path in CLASSES]
    flat = read([*train, "test/1.png", "test/2.png"])
    assert flat.test is None
    assert flat.notes[0] == "test/ is not tested on: it has no folder for each class"
    birds = read([*train, "test/birds/1.png", "test/cats/2.png"])
    assert birds.test is None
    assert birds.notes[0] == "test/ is not tested on: class 'birds' is none of those to train on"
    bare = read(["train/1.png", "test/1.png"])
    assert (bare.test, bare.notes[0]) == (None, "test/ is not tested on: the images to train on have no classes")


def test_folders_around_it_all_are_passed_over() -> None:
    found = read([f"download/set 1/{part}/{path}" for part in ("train", "test") for path in CLASSES])
    assert (found.uri, found.test_uri) == ("folder:images/download/set 1/train", "folder:images/download/set 1/test")


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name.strip("/")), min_size=1
    )
)
def test_whatever_names_there_are_all_files_are_counted_once(names: list[str]) -> None:
    paths = sorted({"/".join(filter(None, name.split("/"))) for name in names})
    found = read(paths)
    assert found.images + found.tested <= len(paths)
    assert sum(found.classes.values()) in (0, found.images)
    assert sum(found.endings.values()) == found.images > 0
    assert found.uri.isprintable()
    assert "".join(found.endings).isprintable()


def refused(folder: Path, place: Path) -> str:
    with pytest.raises(ValueError) as caught:
        layout_of(folder, place)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_folder_of_images_is_one_line(tmp_path: Path) -> None:
    lab, photos = tmp_path / "lab", tmp_path / "photos"
    photos.mkdir()
    (photos / "notes.txt").write_text("no image")
    (tmp_path / "images.parquet").write_text("")
    assert "there is no such folder; the nearest name there is 'photos'" in refused(tmp_path / "fotos", lab)
    assert "is a file, not a folder of images; a recipe reads it as" in refused(tmp_path / "images.parquet", lab)
    assert "no images in" in refused(photos, lab)
    assert "lies in the folder of images" in refused(photos, photos / "lab")
    odd = tmp_path / 'new\nline "quoted" ü'
    odd.mkdir()
    assert f"no images in {str(odd)!r}" in refused(odd, lab)
