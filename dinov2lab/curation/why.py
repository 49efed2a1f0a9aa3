"""What became of one image, in words: read from the ledger of a manifest."""

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.store.manifest import Manifest, ManifestFolder

MOST_STEPS = 20  # of a chain from copy to copy that are told


def find_manifest(cache: Path, name: str | None) -> ManifestFolder:
    """By its id or its folder's name, or how these begin; without a name, the one that was written last.

    Raises ValueError where there is none, or several that have different fates to tell.
    """
    records = sorted(cache.glob("*/funnel.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    folders = [ManifestFolder(file.parent) for file in records]
    if not folders:
        raise ValueError(f"{cache}: no manifest here yet; dinov2lab curate RECIPE writes one")
    if name is None:
        return folders[0]
    if exact := [folder for folder in folders if folder.path.name == name]:
        return exact[0]
    found = [folder for folder in folders if folder.path.name.startswith(name) or _id(folder).startswith(name)]
    if not found:
        near = did_you_mean(name, map(_id, folders), 0.3)
        raise ValueError(f"--manifest {name}: no such manifest in {cache}{near}")
    if len({_id(folder) for folder in found}) > 1:
        raise ValueError(f"--manifest {name}: {len(found)} manifests begin so: {', '.join(map(_id, found[:5]))}")
    return found[0]


def _id(folder: ManifestFolder) -> str:
    record = folder.read()
    return record.id if record else ""


def why(folder: ManifestFolder, path: str) -> list[str]:
    """Lines on whether the image at `path` is kept, and what decided. Raises ValueError where there is no such image."""
    lines: list[str] = []
    stages = {record.stage: record for record in folder.funnel()}
    here: str | None = path
    while here and len(lines) < MOST_STEPS:
        fate = _fate(folder, here)
        if fate is None:
            raise ValueError(f"{path}: no such image in manifest {_id(folder)}" + _near(folder, path))
        lines.append(_told(here, fate, stages))
        copied = fate.get("reason") in ("duplicate", "chained_to_a_leak")
        here = fate["witness"] if copied and fate["witness"] != here else None
    return [*lines, *_stands_for(folder, path)]


def _row(folder: ManifestFolder, name: str, path: str) -> dict[str, Any] | None:
    table = folder.table(name)
    rows = table.filter(pc.equal(table["path"], path)).to_pylist() if table is not None else []
    return dict(rows[0]) if rows else None


def _fate(folder: ManifestFolder, path: str) -> dict[str, Any] | None:
    return _row(folder, "ledger", path) or _row(folder, "kept", path)


def _near(folder: ManifestFolder, path: str) -> str:
    table = folder.table("kept")
    return did_you_mean(path, table["path"].slice(0, 20000).to_pylist()) if table is not None else ""


def _told(path: str, fate: dict[str, Any], stages: dict[str, Manifest]) -> str:
    witness, score = fate["witness"], fate["score"]
    value = "" if score is None or score != score else f" ({score:.6g})"
    if "stage" not in fate:
        return f"{path} is kept" + (f": the last stage gives {witness}{value} as its witness" if witness else "")
    record = stages[fate["stage"]]
    words = REASONS.get(fate["reason"], "{reason}").format(
        witness=witness, value=value, reason=fate["reason"].replace("_", " "), **_choices(record)
    )
    return f"{path} fell at stage {fate['stage']}, reason {fate['reason']}: {words}"


def _choices(record: Manifest) -> dict[str, Any]:
    """The parameters of a stage that the words below ask for."""
    names = ("threshold", "rule", "images", "per_query", "clusters", "more_than", "keep")
    bounds = ("min_px", "max_aspect", "min_contrast", "min_luminance", "min_sharpness", "min_jpeg_quality")
    return {name: record.parameters.get(name, "?") for name in (*names, *bounds)}


def _stands_for(folder: ManifestFolder, path: str) -> list[str]:
    table = folder.table("ledger")
    if table is None:
        return []
    own = table.filter(pc.and_(pc.equal(table["witness"], path), pc.equal(table["reason"], "duplicate")))
    some = ", ".join(own["path"].slice(0, 5).to_pylist())
    return (
        [f"it stands for {len(own)} near copies that fell: {some}{' ...' if len(own) > 5 else ''}"] if len(own) else []
    )


REASONS = {
    "leak": "it is a copy of the evaluation image {witness}{value}, threshold {threshold}",
    "chained_to_a_leak": "near copies chain it to a copy of an evaluation image; a step nearer to it is {witness}{value}",
    "duplicate": "it is a near copy, and {witness}{value} stands for it; threshold {threshold}, rule {rule}, {keep} first",
    "not_retrieved": "no query took it; the closest is {witness}{value}, and the stage asks for {images} images",
    "no_cluster_of_queries": "its cluster holds no more than {more_than} queries",
    "enough_of_its_cluster": "enough of its cluster was taken without it; its centre is near {witness}{value}",
    "not_drawn": "it was not drawn; of its neighbours the one that its weight comes from is {witness}{value}",
    "not_sampled": "the random draw of {images} left it out",
    "not_in_mixture": "no part of the mixture took it",
    "small": "its shorter side is too short{value}, {min_px} pixels are asked for",
    "elongated": "its sides differ too much{value}, {max_aspect} to 1 is allowed",
    "blank": "it has too little contrast{value}, {min_contrast} grey levels are asked for",
    "dark": "it is too dark{value}, {min_luminance} grey levels are asked for",
    "blurred": "its edges are too weak{value}, {min_sharpness} is asked for",
    "over_compressed": "its JPEG quality is too low{value}, {min_jpeg_quality} is asked for",
    "empty": "the file is empty",
    "truncated": "the file ends before its image does",
    "corrupt": "its decoder refuses it",
    "not_an_image": "its bytes are no image of a known format",
    "too_large": "it is too large to be decoded",
    "vanished": "it was gone, or could not be opened, when it was read",
    "outside": "it is a link that leaves the folder",
}
