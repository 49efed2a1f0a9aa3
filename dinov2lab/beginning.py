"""A workspace of one's own: the recipes and studies that come along, and the few files around them.

They lie in shipped/, in the repository by links, in an installed package as files.
"""

from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped"
FOLDERS = ("experiments", "ablations", "schemas")
IGNORED = "/lab/\n/.venv/\n__pycache__/\n/reports/*/results.parquet\n"
README = """\
# {name}

A workspace of [dinov2lab](https://arxiv.org/abs/2304.07193): studies of DINOv2 on images. All commands are given here.

    dinov2lab doctor                        # what a run needs, and what of it is here
    dinov2lab run smoke                     # all of the method in seconds; it learns nothing
    dinov2lab run curation_vs_uncurated     # a study on drawn images, from nothing to a report: minutes
    dinov2lab list                          # what else there is, and what has results
    dinov2lab search search_lr_teacher_temperature
    dinov2lab ui                            # every run in MLflow

| folder | holds |
|:--|:--|
| `experiments/` | recipes and searches, a YAML each; `own_images.yaml` is where images of one's own begin |
| `experiments/slurm/` | what a job asks of a cluster; then `run STUDY --launcher slurm --profile gpu` |
| `ablations/` | studies: a question, arms, seeds, and the rule that decides |
| `schemas/` | for editors, which complete and check these files by them; `dinov2lab schema` writes them anew |
| `reports/` | what studies have found |
| `lab/` | runs, caches and the MLflow database; not for git |
"""


def begin(place: Path) -> list[Path]:
    """Write a workspace to `place`, which may be there already; what was written. Raises ValueError, and writes nothing,
    where any of its files is there.
    """
    texts = {place / ".gitignore": IGNORED, place / "README.md": README.format(name=place.resolve().name)}
    for folder in FOLDERS:
        for file in sorted((SHIPPED / folder).glob("**/*")):
            if file.is_file():
                texts[place / folder / file.relative_to(SHIPPED / folder)] = file.read_text(encoding="utf-8")
    if there := [file for file in texts if file.exists() or file.is_symlink()]:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ValueError(f"{there[0]}{others}: is there already, and nothing is written over; choose another folder")
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    return list(texts)
