"""One network measured on images, after its training and apart from its result."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dinov2lab.data.loader import Pictures, as_tensor, centred, evaluation_batches
from dinov2lab.data.revisited import RevisitedSource
from dinov2lab.data.source import ParquetSource, Source, open_source
from dinov2lab.evaluation import pictures as drawing
from dinov2lab.evaluation.protocol import Eyes
from dinov2lab.lab import provenance
from dinov2lab.lab.exam import Places, Whole, because, evaluation_data
from dinov2lab.lab.judging import finals
from dinov2lab.lab.seeing import Cache, eyes
from dinov2lab.lab.subject import Subject
from dinov2lab.model.features import attention
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.evaluation import Depth, EvaluationSpec, Linear, Logistic, Segmentation
from dinov2lab.spec.identity import content_id
from dinov2lab.store import atomic, evaluation
from dinov2lab.store.evaluation import OF_LABELS, Evaluation

UNASKED = (
    "health",
    "knn",
    "linear",
    "retrieval",
    "segmentation",
    "depth",
    "copies",
    "revisited",
)  # as far as the images allow
SHOTS = (1, 5, 10)
SHOWN = 8  # images of a sheet


class Asked(NamedTuple):
    memory: str
    on: tuple[str, ...]
    metrics: tuple[str, ...]  # none: UNASKED


def asked_of(subject: Subject, on: Sequence[str], memory: str | None, metrics: Sequence[str]) -> Asked:
    """What was asked for, and for the rest what the subject's own recipe says. Raises ValueError where that says nothing."""
    tested = tuple(on) or ((subject.spec.test,) if subject.spec.test else ())
    learnt = memory or subject.spec.memory
    if learnt is None or not tested:
        raise ValueError(f"{subject.name}: was trained without images to evaluate on; name them: --memory URI --on URI")
    return Asked(learnt, tested, tuple(metrics))


def evaluate(subject: Subject, asked: Asked, places: Places, device: str = "cpu") -> Evaluation:
    """Measured, or read where nothing that decides the values has changed since it was.

    A set that is not there is skipped by name. Raises ValueError where the memory is not there, or nothing could be measured.
    """
    sources, skipped = _opened(asked, places)
    fingerprints = {uri: source.fingerprint() for uri, source in sources.items()}
    plans = {uri: _plan(subject, asked, uri, sources) for uri in asked.on if uri in sources}
    for uri, plan in plans.items():
        skipped |= {f"{metric} on {uri}": why for metric, why in plan.missing.items()}
    spec = {uri: plan.spec.model_dump(mode="json") for uri, plan in plans.items()}
    decides = [subject.weights, subject.px, asked.memory, list(asked.metrics), spec, fingerprints, provenance.code_id()]
    file = subject.folder / f"{content_id(decides)}.json"
    if found := evaluation.read(file):
        return found.model_copy(update={"skipped": found.skipped | skipped})
    cache = Cache(places.workspace.cache / "features", subject.weights)
    see = eyes(subject.network.to(device), subject.px, cache)
    values = dict[str, dict[str, float]]()
    for uri, plan in plans.items():
        try:
            values[uri] = _measured(subject, plan, uri, sources, places, see)
            if "pictures" in plan.metrics:
                draw(subject, Whole(plan.spec, subject.px, sources, places).pictures(uri), see, _sheet(file, uri))
        except ValueError as error:
            skipped[uri] = str(error)
    if not values:
        raise ValueError("nothing to evaluate on: " + "; ".join(f"{what}: {why}" for what, why in skipped.items()))
    found = Evaluation(
        of=subject.name,
        weights=subject.weights,
        px=subject.px,
        memory=asked.memory,
        metrics=asked.metrics,
        values=values,
        skipped=skipped,
        spec=spec,
        sources=fingerprints,
        code=provenance.code_id(),
        commit=provenance.commit(),
        environment=provenance.environment(device),
        finished_at=time.time(),
    )
    evaluation.write(found, file)
    return found


def _opened(asked: Asked, places: Places) -> tuple[dict[str, Source], dict[str, str]]:
    """(sources by URI, why others are not there)."""
    sources, skipped = {asked.memory: open_source(asked.memory, places.roots)}, dict[str, str]()
    for uri in asked.on:
        try:
            sources[uri] = open_source(uri, places.roots)
        except (ValueError, OSError) as error:
            skipped[uri] = because(uri, error)
    return sources, skipped


class Plan(NamedTuple):
    spec: EvaluationSpec
    metrics: frozenset[str]
    missing: dict[str, str]  # metrics that were asked for, and what the images lack


def _plan(subject: Subject, asked: Asked, uri: str, sources: dict[str, Source]) -> Plan:
    lacks = _lacking(subject, sources[asked.memory], sources[uri])
    metrics = frozenset(metric for metric in asked.metrics or UNASKED if metric not in lacks)
    missing = {metric: lacks[metric] for metric in asked.metrics if metric in lacks}
    base, linear = subject.spec, subject.spec.linear or Linear()
    if "linear_grid" in metrics:
        linear = linear.model_copy(update={"blocks": (1, 4), "average": (False, True)})
    depth = (base.depth or Depth()).model_copy(update={"memory": asked.memory, "test": uri})
    update = {
        "memory": asked.memory,
        "test": uri,
        "knn": base.knn.model_copy(update={"shots": (base.knn.shots or SHOTS) if "few_shot" in metrics else ()}),
        "linear": linear if metrics & {"linear", "linear_grid"} else None,
        "logistic": (base.logistic or Logistic()) if "logistic" in metrics else None,
        "retrieval": "retrieval" in metrics,
        "segmentation": (base.segmentation or Segmentation()) if "segmentation" in metrics else None,
        "depth": depth if "depth" in metrics else None,
        "copies": uri if "copies" in metrics else None,
        "revisited": uri if "revisited" in metrics else None,
        "shifted": (),
        "looks": None,
    }
    return Plan(base.model_copy(update=update), metrics, missing)


def _lacking(subject: Subject, memory: Source, test: Source) -> dict[str, str]:
    """Why a metric cannot be had."""
    lacks = dict[str, str]()
    if memory.labels is None or test.labels is None or len(memory.classes) < 2:
        lacks |= dict.fromkeys(OF_LABELS, "no labels")
    pair = [source if isinstance(source, ParquetSource) else None for source in (memory, test)]
    if not all(source and source.masked for source in pair):
        lacks["segmentation"] = "no masks"
    if not all(source and source.deep for source in pair):
        lacks["depth"] = "no depths"
    if not (pair[1] and pair[1].paired):
        lacks["copies"] = "no copies"
    if not isinstance(test, RevisitedSource):
        lacks["revisited"] = "no ground truth of revisited Oxford or Paris"
    if not subject.tokens:
        tokens = f"{subject.name} has no patch tokens"
        lacks |= dict.fromkeys(("linear_grid", "segmentation", "depth", "pictures"), tokens)
    return lacks


def _measured(
    subject: Subject, plan: Plan, uri: str, sources: dict[str, Source], places: Places, see: Eyes
) -> dict[str, float]:
    assert plan.spec.memory is not None
    whole = Whole(plan.spec, subject.px, sources, places)
    data = evaluation_data(plan.spec, subject.px, sources, whole.pictures(plan.spec.memory), places)
    values = finals(see, data, plan.spec)
    return {name: value for name, value in values.items() if _wanted(name, plan.metrics)}


def _wanted(name: str, metrics: frozenset[str]) -> bool:
    """kNN and health are measured on the way, whatever was asked for."""
    if name.startswith("health/"):
        return "health" in metrics
    return "knn" in metrics or not name.endswith(("/knn", "/knn_k"))


def draw(subject: Subject, shown: Pictures, see: Eyes, file: Path) -> None:
    """A sheet of some images with the components of their patch tokens and, of a backbone of ours, its attention."""
    few = shown.some(range(min(SHOWN, len(shown))))
    images = as_tensor([centred(few[row], subject.px) for row in range(len(few))])
    maps = None
    if isinstance(subject.network, Backbone):
        maps = drawing.attention_maps(attention(subject.network, evaluation_batches(few, subject.px)))
    sheet = drawing.sheet(images, drawing.pca_colours(see.patches(few)), maps)
    atomic.write(file, lambda path: Image.fromarray(sheet.numpy()).save(path, "PNG"))


def _sheet(file: Path, uri: str) -> Path:
    return file.with_name(f"{file.stem}-{content_id(uri)}.png")
