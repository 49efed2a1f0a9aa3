"""Curation of each arm as the report shows it: the counts of every stage, and example images by reason."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dinov2lab.report.tables import Run, by_arm
from dinov2lab.spec.study import Study
from dinov2lab.store.manifest import Manifest, ManifestFolder

SHOWN = 6  # example images of each reason
SHOWN_KEPT = 12
LARGEST = 100_000  # bytes of one thumbnail
UNTOLD = ("stage", "sources", "fingerprint")  # parameters that say nothing new, or are hashes
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Stage:
    name: str
    parameters: str
    came: int
    left: int
    share: float  # of the source that is left, 0 to 1
    dropped: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Example:
    path: str
    score: float | None
    image: Markup | None  # data URI; the file names nothing outside its folder
    witness: str | None  # what the image is a copy of
    witness_image: Markup | None


@dataclass(frozen=True)
class Examples:
    reason: str
    shown: tuple[Example, ...]
    also: str | None  # the arm under which the same images stand already


@dataclass(frozen=True)
class Certificate:
    """How many images of an evaluation set have a near copy among the images that an arm trains on."""

    name: str  # of the set
    images: int
    found: tuple[tuple[float, int, int], ...]  # threshold, images of the set, pairs
    detector: str


@dataclass(frozen=True)
class Curation:
    """The way of an arm's images from the source to training, for its first seed that has one."""

    arm: str
    seed: int
    manifest: str
    stages: tuple[Stage, ...]
    differing: tuple[int, ...]  # seeds whose counts are others
    other_images: bool  # whether seeds of the same counts hold other images
    examples: tuple[Examples, ...]
    certificates: tuple[Certificate, ...]


def curations(study: Study, runs: tuple[Run, ...]) -> tuple[Curation, ...]:
    table, seen = [], dict[str, str]()
    for arm in study.arms:
        folders = {run.seed: run.manifest for run in by_arm(runs).get(arm.name, ()) if run.manifest}
        read = {folder: _funnel(folder) for folder in set(folders.values())}
        funnels = {seed: read[folder] for seed, folder in folders.items() if read[folder]}
        if funnels:
            seed = next(iter(funnels))
            examples = _examples(arm.name, folders[seed], seen)
            table.append(_curation(arm.name, seed, funnels, examples, _certificates(folders[seed])))
    return tuple(table)


def _funnel(folder: Path) -> tuple[Manifest, ...]:
    file = folder / "funnel.json"
    if file.exists():
        return tuple(Manifest.model_validate(record) for record in json.loads(file.read_bytes()))
    last = ManifestFolder(folder).read()
    return (last,) if last else ()


def _curation(
    arm: str,
    seed: int,
    funnels: dict[int, tuple[Manifest, ...]],
    examples: tuple[Examples, ...],
    certificates: tuple[Certificate, ...],
) -> Curation:
    funnel = funnels[seed]
    counts = {other: [(stage.rows, stage.dropped) for stage in records] for other, records in funnels.items()}
    differing = tuple(other for other in counts if counts[other] != counts[seed])
    other_images = len({records[-1].id for records in funnels.values()}) > 1
    whole = max(1, funnel[0].rows + sum(funnel[0].dropped.values()))
    stages = tuple(stage_of(record, whole) for record in funnel)
    return Curation(arm, seed, funnel[-1].id, stages, differing, other_images, examples, certificates)


def _certificates(folder: Path) -> tuple[Certificate, ...]:
    file = folder / "certificate.json"
    if not file.exists():
        return ()
    record = json.loads(file.read_bytes())
    detector = _plain(record["detector"]) + (", mirror images too" if record["mirrored"] else "")
    return tuple(
        Certificate(
            each["set"],
            each["images"],
            tuple((found["threshold"], found["images"], found["pairs"]) for found in each["found"]),
            detector,
        )
        for each in record["sets"]
    )


def stage_of(record: Manifest, whole: int) -> Stage:
    came = record.rows + sum(record.dropped.values())
    dropped = tuple(sorted(record.dropped.items(), key=lambda item: -item[1]))
    told = {name: value for name, value in record.parameters.items() if name not in UNTOLD and value is not None}
    parameters = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in told.items())
    return Stage(record.stage, parameters, came, record.rows, record.rows / whole, dropped)


def _plain(value: Any) -> str:
    """A parameter in few words; of an embedder or another nested part, its kind and name."""
    if isinstance(value, dict):
        return " ".join(str(value[key]) for key in ("kind", "name", "px") if key in value) or json.dumps(value)
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _examples(arm: str, folder: Path, seen: dict[str, str]) -> tuple[Examples, ...]:
    """Kept first, then each reason; what an arm above shows already is only pointed to."""
    file = folder / "examples.json"
    groups: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes()) if file.exists() else {}
    table = []
    for reason in sorted(groups, key=lambda name: name != "kept"):
        entries = groups[reason][: SHOWN_KEPT if reason == "kept" else SHOWN]
        above = seen.setdefault(reason + json.dumps([entry["path"] for entry in entries]), arm)
        shown = tuple(example(folder, entry) for entry in entries) if above == arm else ()
        if entries:
            table.append(Examples(reason, shown, None if above == arm else above))
    return tuple(table)


def example(folder: Path, entry: dict[str, Any]) -> Example:
    witness = entry.get("witness")
    return Example(
        entry["path"],
        entry.get("score"),
        png(folder, entry.get("file")),
        witness,
        png(folder, entry.get("witness_file")),
    )


def png(folder: Path, name: str | None) -> Markup | None:
    """A data URI of a small PNG inside `folder`; None for anything else."""
    file = (folder / name).resolve() if name else None
    if not file or not file.is_relative_to(folder.resolve()) or not file.is_file() or file.stat().st_size > LARGEST:
        return None
    data = file.read_bytes()
    return Markup("data:image/png;base64," + base64.b64encode(data).decode()) if data.startswith(PNG) else None
