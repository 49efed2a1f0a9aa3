"""A folder of images looked at, and what is proposed for it: in words, and for --json."""

import json
import shlex
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from dinov2lab.beginning.layout import Layout
from dinov2lab.beginning.machine import Machine, this_machine
from dinov2lab.beginning.recipe import NAME, Recipe, propose
from dinov2lab.beginning.study import First, first_study, stages_against_copies
from dinov2lab.beginning.survey import Survey, Tell, survey
from dinov2lab.data.loader import Pictures
from dinov2lab.data.source import FolderSource
from dinov2lab.lab.speed import Speed, speed_of
from dinov2lab.spec.run import RunSpec
from dinov2lab.terminal import counted, duration

TIMED = 32  # images that views are made of, again and again


class Proposal(NamedTuple):
    found: Survey
    machine: Machine
    recipe: Recipe
    study: First

    @property
    def files(self) -> dict[str, str]:
        """Name in the workspace -> text."""
        return {f"experiments/{NAME}.yaml": self.recipe.text, f"ablations/{self.study.name}.yaml": self.study.text}

    @property
    def study_hours(self) -> float:
        return self.recipe.hours * ceil(self.study.runs / self.machine.jobs)


def look(folder: Path, layout: Layout, hours: float, tell: Tell) -> Proposal:
    """Raises ValueError where too few images can be read."""
    found, machine = survey(folder, layout, tell), this_machine()
    pictures = Pictures(FolderSource(layout.uri, folder / layout.train), found.rows[:TIMED])
    decoding, workers = 0.0 if found.decoded_once else found.seconds, machine.cores // max(1, len(machine.gpus)) - 1

    def measured(spec: RunSpec) -> Speed:
        doing = f"time {spec.model.size} at {spec.views.global_px} px"
        tell(doing, 0, 1)
        speed = speed_of(spec, pictures, decoding, machine.device, workers)
        tell(doing, 1, 1)
        return speed

    return Proposal(found, machine, propose(found, machine, hours, measured), first_study(found))


def lines(proposal: Proposal, place: Path) -> Iterator[str]:
    """As a person reads it; the last lines are the commands to go on with."""
    found, machine, recipe, study = proposal
    yield from _of_images(found)
    yield f"machine   {machine}"
    yield ""
    yield f"recipe    experiments/{NAME}.yaml"
    for field, value, why in recipe.choices:
        if why:
            yield f"  {field} {_short(value)}: {why}"
    speed = recipe.speed
    gpu = (
        ""
        if speed.gpu_gib is None
        else f", {speed.gpu_gib:.1f} GiB of a GPU with --micro-batches {speed.micro_batches}"
    )
    yield f"  {speed.images:,.0f} images/s{gpu}, as timed here: a run takes about {duration(recipe.hours * 3600)}"
    yield ""
    yield f"study     ablations/{study.name}.yaml: {study.question}"
    yield f"  because {study.why}"
    yield f"  arms {', '.join(study.arms)}; decided on {study.metric}"
    took = duration(proposal.study_hours * 3600)
    yield f"  {study.runs} runs, one of which is `{NAME}` itself, {machine.jobs} at a time: about {took}"
    yield ""
    for note in recipe.notes:
        yield f"note      {note}"
    yield "go on with"
    for command in commands(proposal, place):
        yield f"  {command}"


def _of_images(found: Survey) -> Iterator[str]:
    layout, sizes = found.layout, found.sizes
    yield f"images    {layout.images:,} files to train on" + (f", {layout.tested:,} to test on" if layout.test else "")
    yield f"  {counted(layout.endings)}"
    if layout.labelled:
        counts = layout.classes.values()
        yield f"  {len(layout.classes):,} classes, a folder each, of {min(counts):,} to {max(counts):,} images"
    else:
        yield "  no labels: not every image lies in one of several folders that could be its class"
    sample = "all of them" if found.whole else f"a random sample of {found.sampled:,}"
    yield f"looked at {sample}"
    yield f"  cannot be read: {counted(found.unreadable) or 'none'}"
    yield f"  shorter side {sizes.middle} px in the middle, {sizes.low} to {sizes.high} for 90 %; 1 to {sizes.aspect:.2f}"
    yield f"  {_of_copies(found)}"


def _of_copies(found: Survey) -> str:
    seen = f"{found.copied:,} have a near copy; {found.exact:,} show exactly what an earlier one does"
    if found.whole:
        return seen
    hidden = f"; such a sample does not tell it from {100 * found.hidden_share:.1f} %" * (found.copied_share < 1)
    return (
        f"{seen}; in all perhaps {100 * found.copied_share:.1f} % of the images, estimated from {found.pairs:,} pairs"
        f" as if copies came in twos{hidden}"
    )


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)


def commands(proposal: Proposal, place: Path) -> list[str]:
    """From the workspace on; none of them needs --data-root, as the images are linked into it."""
    machine, study = proposal.machine, proposal.study
    parts = f" --micro-batches {proposal.recipe.speed.micro_batches}" * (proposal.recipe.speed.micro_batches > 1)
    jobs = f" --jobs {machine.jobs}" * (machine.jobs < (len(machine.gpus) or machine.cores))
    counted_all = f'dinov2lab curate {NAME} --set "curation.stages={stages_against_copies(proposal.found)}"'
    return [
        f"cd {shlex.quote(str(place))}",
        f"dinov2lab run {NAME} --dry-run",
        f"dinov2lab run {NAME}{parts}",
        *([counted_all] if study.name.endswith("copies") else []),
        f"dinov2lab run {study.name} --dry-run",
        f"dinov2lab run {study.name}{jobs}{parts}",
    ]


def as_json(proposal: Proposal, place: Path) -> dict[str, Any]:
    found, machine, recipe, study = proposal
    layout = found.layout
    images = {
        "train": layout.uri,
        "test": layout.test_uri,
        "files": layout.images,
        "test_files": layout.tested,
        "endings": dict(layout.endings),
        "classes": dict(layout.classes),
        "sampled": found.sampled,
        "unreadable": found.unreadable,
        "short_side": found.sizes.middle,
        "aspect": found.sizes.aspect,
        "exact_copies": found.exact,
        "near_copies": found.copied,
        "near_copies_of_all": found.copied_share,
        "near_copies_of_all_at_most": found.hidden_share,
    }
    return {
        "images": images,
        "machine": machine._asdict(),
        "recipe": {
            "file": f"experiments/{NAME}.yaml",
            "choices": [choice._asdict() for choice in recipe.choices],
            "images_per_second": recipe.speed.images,
            "micro_batches": recipe.speed.micro_batches,
            "gpu_gib": recipe.speed.gpu_gib,
            "hours": recipe.hours,
            "notes": list(recipe.notes),
        },
        "study": {
            "file": f"ablations/{study.name}.yaml",
            "question": study.question,
            "because": study.why,
            "arms": list(study.arms),
            "metric": study.metric,
            "runs": study.runs,
            "hours": proposal.study_hours,
        },
        "commands": commands(proposal, place),
    }
