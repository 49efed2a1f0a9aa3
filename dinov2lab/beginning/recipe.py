"""From what a folder of images shows to a recipe for them: each choice with its reason.

A rung is a size of network and views that a shipped recipe is taken to. The highest one is proposed that sees as many
images in the hours given as the smallest recipe needed that is known to learn.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from math import ceil
from typing import Any, NamedTuple

from dinov2lab.beginning.machine import Machine
from dinov2lab.beginning.survey import Survey
from dinov2lab.beginning.workspace import SHIPPED
from dinov2lab.lab.speed import Speed
from dinov2lab.spec.document import Item, parse
from dinov2lab.spec.overrides import leaves, put
from dinov2lab.spec.recipes import mapping, recipe_tree, spec_of
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import with_steps

NAME = "mine"
HEADER = "# yaml-language-server: $schema=../schemas/recipe.json"
LEARNT = 512_000  # images after which cifar10.yaml was at its best on val; of 200,000 nothing is to be seen yet
PASSES = 1000  # over the images, at most: what more would bring was never tried
TRAINING = 0.8  # of the hours; looks, evaluation and reading take the rest
DETECTABLE = 100_000  # images, among which copies are still found without an index (docs/copies.md)
DECODING = 0.3  # of the time; more is worth a word
FEW = 5000  # below, public weights are the better beginning
FROM = {
    "pico": 0,
    "nano": 1000,
    "tiny": 3000,
    "small": 10_000,
    "base": 1_000_000,
}  # images that a size of network asks for


class Rung(NamedTuple):
    base: str  # the shipped recipe that it is taken from
    size: str
    global_px: int
    local_px: int
    patch: int
    lr: float


class Choice(NamedTuple):
    """A field of the recipe; a reason, where there is one of its own."""

    field: str
    value: Any
    why: str = ""


class Recipe(NamedTuple):
    choices: tuple[Choice, ...]
    text: str
    spec: RunSpec
    speed: Speed
    notes: tuple[str, ...]  # what to know before it is run

    @property
    def hours(self) -> float:
        return self.spec.optim.steps * self.spec.optim.batch / self.speed.images / TRAINING / 3600


def rungs(found: Survey, machine: Machine) -> list[Rung]:
    """From the smallest up: those that the images are large enough and enough for, and the first in any case."""
    side = found.sizes.middle
    there = _of_a_gpu(side) if machine.gpus else _of_a_core(side)
    kept = [rung for rung in there[1:] if rung.global_px <= side and FROM[rung.size] <= found.images]
    return [there[0], *kept]


def _of_a_core(side: int) -> list[Rung]:
    wider = [
        Rung("cifar10", size, 64 if side >= 64 else 32, 32 if side >= 64 else 16, 8, 5e-4) for size in ("nano", "tiny")
    ]
    pico = [Rung("cifar10", "pico", px, px // 2, 8, 1e-3) for px in (32, 64)]
    return [*pico, *wider, Rung("cifar10", "tiny", 96, 48, 8, 5e-4)]


def _of_a_gpu(side: int) -> list[Rung]:
    if side < 96:  # a grid of eight patches a side, as in cifar10_gpu.yaml
        px = max(32, side // 16 * 16)
        return [Rung("cifar10_gpu", size, px, px // 2, px // 8, 2e-3) for size in ("tiny", "small")]
    px = min(224, side // 16 * 16)
    patch = 16 if px >= 160 else 8
    local = max(patch * 2, round(px * 96 / 224 / patch) * patch)
    return [Rung("own_images", size, px, local, patch, 7e-4) for size in ("tiny", "small", "base")]


def propose(found: Survey, machine: Machine, hours: float, speed_of: Callable[[RunSpec], Speed]) -> Recipe:
    """`speed_of` says how fast this machine trains a recipe."""
    chosen = above = None
    for rung in rungs(found, machine):
        speed = speed_of(_spec(_text(rung, _choices(rung, found, machine, 0, hours))))
        tried = _Tried(rung, speed, max(1, round(hours * 3600 * TRAINING * speed.images)))
        if chosen and tried.images < LEARNT:
            above = tried
            break
        chosen = tried
    assert chosen  # there is a first rung
    choices = tuple(_choices(chosen.rung, found, machine, chosen.images, hours, above))
    text = _text(chosen.rung, choices, found)
    return Recipe(choices, text, _spec(text), chosen.speed, tuple(_notes(found, chosen, hours)))


class _Tried(NamedTuple):
    rung: Rung
    speed: Speed
    images: int  # that it sees in the hours given


def _choices(
    rung: Rung, found: Survey, machine: Machine, images: int, hours: float, above: _Tried | None = None
) -> list[Choice]:
    """`images`: how many the hours allow; of none, the length is the base's. `above`: the next rung, which was too slow."""
    base, sizes = spec_of(_shipped(f"{rung.base}.yaml")), found.sizes
    side = f"the images' shorter side is {sizes.middle} px (of 90 % of them {sizes.low} to {sizes.high})"
    enlarged = "; views are larger than that" if rung.global_px > sizes.middle else ""
    slow = f"; {_named(above.rung)} would see {above.images:,} in {hours:g} h, {LEARNT:,} are wanted" if above else ""
    grid = rung.global_px // rung.patch
    precision = "bf16" if machine.bf16 else "fp32"
    why = "this machine multiplies in it, twice as fast" if machine.bf16 else "bf16 would be imitated here, slower"
    return [
        Choice("data.train", found.layout.uri, f"{found.images:,} images"),
        *_curation(found),
        Choice("views.global_px", rung.global_px, f"{side}{enlarged}{slow}"),
        Choice("views.local_px", rung.local_px, f"as much smaller as in {rung.base}.yaml"),
        Choice("model.size", rung.size, _why_size(rung, found)),
        Choice("model.patch", rung.patch, f"a grid of {grid} x {grid} patches"),
        Choice("optim.batch", base.optim.batch, f"as in {rung.base}.yaml; more updates before larger batches"),
        Choice("optim.lr", rung.lr, f"of {rung.size} at this batch; not tuned on your images"),
        Choice("optim.precision", precision, why),
        *(_lengths(base, found, images, hours) if images else []),
        *_evaluation(found, base, images),
    ]


def _named(rung: Rung) -> str:
    return f"{rung.size} at {rung.global_px} px"


def _why_size(rung: Rung, found: Survey) -> str:
    larger = [size for size, least in FROM.items() if least > found.images]
    limit = f"; {larger[0]} is proposed from {FROM[larger[0]]:,} images on (a guess, not measured)" if larger else ""
    known = "the network that is known to learn on small hardware" if rung.size == "pico" else f"from {rung.base}.yaml"
    return f"{known}{limit}"


def _curation(found: Survey) -> list[Choice]:
    """Stages are left to studies."""
    if found.layout.test_uri is None:
        return [Choice("curation", {"stages": []}, "all images; a study says what leaving some out would do")]
    few = found.images <= DETECTABLE
    leaks = {"embedder": {"kind": "copies"}, "threshold": 0.7} if few else {}
    why = "copies of test images leave the training set first, or the test would flatter"
    return [Choice("curation.leaks", {"against": [found.layout.test_uri]} | leaks, why)]


def _lengths(base: RunSpec, found: Survey, images: int, hours: float) -> list[Choice]:
    most = PASSES * found.images
    seen = min(images, most)
    steps = max(_round(seen / base.optim.batch), 10)
    scaled = with_steps(base, steps)
    passes = steps * base.optim.batch / found.images
    limit = (
        f"no more than {PASSES} passes"
        if images > most
        else f"as many as fit into {hours:g} h, a fifth of which is left to looks and evaluation"
    )
    why = f"{steps * base.optim.batch:,} images, {passes:.3g} passes: {limit}"
    warm = "all durations as long a part of the run as in the base"
    return [
        Choice("optim.steps", steps, why),
        Choice("optim.warmup_steps", scaled.optim.warmup_steps, warm),
        Choice("optim.freeze_last_layer_steps", scaled.optim.freeze_last_layer_steps),
        Choice("objective.teacher.temperature_warmup_steps", scaled.objective.teacher.temperature_warmup_steps),
    ]


def _round(value: float) -> int:
    """Down to two digits."""
    digits = int(10 ** max(0, len(str(int(value))) - 2))
    return int(value) // digits * digits


def _evaluation(found: Survey, base: RunSpec, images: int) -> list[Choice]:
    layout = found.layout
    rarely = 2 * found.images if layout.labelled else 0  # each look embeds all labelled images
    every = max(base.optim.batch, rarely, _round(min(images, PASSES * found.images) / 10))
    if not layout.labelled:
        why = (
            "no labels: health alone is measured, which says whether features have collapsed and nothing of their worth"
        )
        return [
            Choice("evaluation.memory", None, why),
            Choice("evaluation.test", None),
            Choice("evaluation.every", every),
        ]
    classes = f"{len(layout.classes)} classes, by folder"
    if layout.test_uri:
        test = Choice("evaluation.test", layout.test_uri, "looked at once, when the run has ended")
    else:
        test = Choice("evaluation.test", None, "no test/ with these classes beside train/: val is all there is")
    fifth = f"{classes}; a fifth of each is val, held out of what kNN and probes learn from, the same for every run"
    return [
        Choice("evaluation.memory", layout.uri, fifth),
        test,
        Choice(
            "evaluation.every", every, "images between two looks at val, each of which embeds all that are labelled"
        ),
    ]


def _notes(found: Survey, chosen: _Tried, hours: float) -> list[str]:
    notes, images, decoding = list(found.layout.notes), chosen.images, chosen.speed.decoding
    if decoding > DECODING:
        px, gib = max(256, 2 * chosen.rung.global_px), found.sizes.bytes * found.images / 2**30
        notes.append(
            f"{100 * decoding:.0f} % of the time goes into decoding the images anew each time, since all of them take"
            f" {gib:,.0f} GiB: copies with a shorter side of {px} px would train at least {1 / (1 - decoding):.0f} times"
            " as fast"
        )
    if PASSES * found.images < LEARNT:
        notes.append(
            f"{PASSES} passes over {found.images:,} images are fewer than the {LEARNT:,} images that the smallest recipe that"
            " is known to learn wants: more hours do not help, more images would"
        )
    elif images < LEARNT:
        wanted = hours * LEARNT / images
        notes.append(
            f"{images:,} images in {hours:g} h are few: the smallest recipe that is known to learn wants {LEARNT:,};"
            f" --hours {ceil(wanted) if wanted > 1 else round(wanted, 2)} allows as many"
        )
    if found.images < FEW:
        notes.append(
            f"{found.images:,} images are few to learn from at all: public weights are the better beginning"
            " (experiments/continued_pretraining.yaml)"
        )
    if found.layout.labelled and found.layout.test is None:
        notes.append(
            "val is chosen on, and so flatters a little; for a test move a part of each class to test/CLASS, the rest to"
            " train/CLASS, and begin again"
        )
    if not found.layout.labelled:
        notes.append(
            "without labels nothing tells whether features are good; with a folder for each class there is kNN to tell"
        )
    return notes


def _text(rung: Rung, choices: Sequence[Choice], found: Survey | None = None) -> str:
    """The YAML, each reason in a comment above its field."""
    tree: dict[str, Any] = {}
    for choice in choices:
        section = tree
        *sections, name = choice.field.split(".")
        for each in sections:
            section = section.setdefault(each, {})
        section[name] = choice
    description = _description(rung, found) if found else []
    return "\n".join([HEADER, *description, f"base: {rung.base}.yaml", *_lines(tree, "")]) + "\n"


def _lines(section: dict[str, Any], indent: str) -> Iterator[str]:
    for name, entry in section.items():
        if not indent:
            yield ""
        if isinstance(entry, dict):
            yield f"{indent}{name}:"
            yield from _lines(entry, indent + "  ")
            continue
        if entry.why:
            yield f"{indent}# {entry.why}"
        yield f"{indent}{name}: {json.dumps(entry.value, ensure_ascii=False)}"


def _description(rung: Rung, found: Survey) -> list[str]:
    return [
        "description: |",
        f"  {_named(rung)} on {found.images:,} images of your own, as `dinov2lab init --images` proposed it",
        f"  All that is not said here is as in {rung.base}.yaml. Not tuned, and not tried on these images.",
    ]


def _spec(text: str) -> RunSpec:
    """Of a recipe that is to lie beside the shipped ones."""
    own = dict(mapping(parse(text, f"{NAME}.yaml", SHIPPED / "experiments")))
    own.pop("description", None)
    return spec_of(put(_shipped(str(own.pop("base").value)), leaves(own)))


@cache
def _shipped(name: str) -> Item:
    return recipe_tree(SHIPPED / "experiments" / name)
