"""A workspace of one's own: the recipes and studies that come along, and the few files around them.

They lie in shipped/, in the repository by links, in an installed package as files. A workspace is there whole or not at all.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from dinov2lab.store import atomic

SHIPPED = Path(__file__).parent.parent / "shipped"
FOLDERS = ("experiments", "ablations", "schemas")
LINK = "images"  # in a workspace that begins with a folder of images: a link to it, so that `folder:images` reads it
IGNORED = "/lab/\n/.venv/\n__pycache__/\n/reports/*/results.parquet\n"
README = """\
# {name}

A workspace of [dinov2lab](https://arxiv.org/abs/2304.07193): studies of DINOv2 on images. All commands are given here.

    dinov2lab doctor                        # what a run needs, and what of it is here
    dinov2lab run smoke                     # all of the method in seconds; it learns nothing
    dinov2lab run curation_vs_uncurated     # a study on drawn images, from nothing to a report: minutes
    dinov2lab list                          # what else there is, and what has results
    dinov2lab search search_lr_teacher_temperature
    dinov2lab ui                            # the runs of studies and searches in MLflow

| folder | holds |
|:--|:--|
| `experiments/` | recipes and searches, a YAML each; `own_images.yaml` is where images of one's own begin |
| `experiments/slurm/` | what a job asks of a cluster; then `run STUDY --launcher slurm --profile gpu` |
| `ablations/` | studies: a question, arms, seeds, and the rule that decides |
| `schemas/` | for editors, which complete and check these files by them; `dinov2lab schema` writes them anew |
| `reports/` | what studies have found |
| `lab/` | runs, caches and the MLflow database; not for git |
"""

LINKED = """\
| `images` | the images that it was made for, or a link to them; what was proposed says why, in `experiments/mine.yaml` |
"""


def begin(place: Path, more: Mapping[str, str] | None = None, images: Path | None = None) -> list[Path]:
    """Write a workspace to `place`, which may be there already; what was written. Raises ValueError, and writes nothing,
    where any of its files is there.

    `more`: further files by their names in it. `images`: what `place`/images is to be a link to.
    """
    texts = _texts(place, more or {}, images)
    refuse(place, texts, images)
    if not place.exists():
        atomic.write_folder(place, lambda folder: _write(folder, texts, images))
    else:
        _add(place, texts, images)
    return [place / name for name in texts]


def refuse(place: Path, names: Mapping[str, str] | None = None, images: Path | None = None) -> None:
    """Raise ValueError where `place` is no folder, or any of the files that a workspace begins with is there."""
    if place.exists() and not place.is_dir():
        raise ValueError(f"{shown(place)}: is a file; a workspace wants a folder of its own")
    files = [place / name for name in (*(names or _texts(place, {}, images)), *_linked(place, images))]
    if there := [file for file in files if file.exists() or file.is_symlink()]:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ValueError(
            f"{shown(there[0])}{others}: is there already, and nothing is written over; choose another folder"
        )


def shown(path: Path) -> str:
    """A path in a line of its own, whatever is in its name."""
    return str(path) if str(path).isprintable() else repr(str(path))


def _texts(place: Path, more: Mapping[str, str], images: Path | None) -> dict[str, str]:
    """Name in the workspace -> text."""
    readme = README.format(name=shown(Path(place.resolve().name))) + LINKED * bool(images)
    texts: dict[str, str] = {".gitignore": IGNORED + f"/{LINK}\n" * bool(images), "README.md": readme}
    for folder in FOLDERS:
        for file in sorted((SHIPPED / folder).glob("**/*")):
            if file.is_file():
                texts[f"{folder}/{file.relative_to(SHIPPED / folder)}"] = file.read_text(encoding="utf-8")
    return texts | dict(more)


def _write(folder: Path, texts: Mapping[str, str], images: Path | None) -> None:
    for name, text in texts.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    if images:
        (folder / LINK).symlink_to(images.resolve())


def _add(place: Path, texts: Mapping[str, str], images: Path | None) -> None:
    """To a folder with files of its own: written beside them first, so that no full disk is met half-way."""
    moved: list[Path] = []
    folders = {folder for name in texts for folder in (place / name).parents if folder.is_relative_to(place)}
    made = sorted((folder for folder in folders if not folder.exists()), reverse=True)  # the inner ones first
    with TemporaryDirectory(prefix=".init.", suffix=".tmp", dir=place) as staged:
        _write(Path(staged), texts, images)
        try:
            for name in (*texts, *_linked(place, images)):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                moved.append(place / name)
                (Path(staged) / name).rename(place / name)
        except BaseException:
            for file in moved:
                file.unlink(missing_ok=True)
            for folder in made:
                if folder.exists():
                    folder.rmdir()
            raise


def _linked(place: Path, images: Path | None) -> list[str]:
    """The link's name, where one is wanted: the images may lie in the workspace's own folder `images` already."""
    link = place / LINK
    return [LINK] if images and not (link.exists() and link.samefile(images)) else []
