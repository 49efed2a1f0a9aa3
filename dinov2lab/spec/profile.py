"""Slurm profiles from YAML files and --slurm KEY=VALUE. Whatever is wrong is a SpecError that names its place."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from dinov2lab.spec.document import Item, SpecError, nearest_file, read_document
from dinov2lab.spec.fields import complain
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.overrides import put, sets
from dinov2lab.spec.resources import Slurm

FOLDER = Path("experiments") / "slurm"


def load_profile(name: str | None, overrides: Sequence[str] = ()) -> Slurm:
    """The profile in the YAML file `name`, or of that name in ./experiments/slurm; without a name, the defaults."""
    tree = read_document(_find(name)) if name else Item({}, "--slurm", Path())
    tree = put(tree, sets(overrides, flag="--slurm", example="hours=4"))
    try:
        return Slurm.model_validate_json(json.dumps(tree.plain()))
    except ValidationError as error:
        raise complain(error.errors(include_url=False), tree, Slurm) from None


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if (FOLDER / f"{name}.yaml").is_file():
        return FOLDER / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise SpecError(f"{name}: no such file{nearest_file(path)}")
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    there = f"; there are {', '.join(known)}" if known else f"; there is none in ./{FOLDER}"
    raise SpecError(f"no Slurm profile is called {name!r}{did_you_mean(name, known) or there}")
