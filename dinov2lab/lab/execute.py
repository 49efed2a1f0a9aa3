"""One run, from its spec to its result: the only way in which anything is trained or curated."""

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dinov2lab.curation import pipeline
from dinov2lab.curation.index import Search
from dinov2lab.data.loader import Pictures, evaluation_batches
from dinov2lab.data.source import Roots, Source, open_source
from dinov2lab.draws import Key
from dinov2lab.evaluation import protocol
from dinov2lab.lab import provenance, vitals
from dinov2lab.lab.exam import Places, chosen_pictures, evaluation_data, opened
from dinov2lab.lab.judging import best_looks, finals, looks, references
from dinov2lab.lab.machine import device_of, name_of, settle
from dinov2lab.lab.outcome import bury, failure
from dinov2lab.lab.pictures import draw_examples, draw_views
from dinov2lab.lab.seeing import eyes
from dinov2lab.lab.team import Lost, Team
from dinov2lab.model.features import features
from dinov2lab.model.vit import Backbone
from dinov2lab.model.weights import Pretrained, digest, load_backbone
from dinov2lab.spec.cost import flops_of_run, images_of_run
from dinov2lab.spec.embedders import Embedder, RunEmbedder, TimmEmbedder
from dinov2lab.spec.identity import content_id, run_id
from dinov2lab.spec.model import RunWeights
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store import atomic, attempts, disk, heartbeat
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import ManifestFolder
from dinov2lab.store.result import Cost, RunFolder, RunResult
from dinov2lab.training import checkpoint, loop
from dinov2lab.training.start import Start, from_public, from_run, frozen_teacher
from dinov2lab.training.step import Diverged

Stop = Callable[[], bool]


class Busy(Exception):
    """Another process computes this run."""


class Stopped(Exception):
    """The run was asked to stop; a checkpoint holds where it was."""


def never() -> bool:
    return False


def execute(
    spec: RunSpec,
    workspace: Workspace,
    roots: Roots,
    resources: Resources,
    *,
    stop: Stop = never,
    begun: Callable[[str], None] | None = None,
    team: Team | None = None,
) -> RunResult:
    """The result of `spec`: read where it is there, else computed from the last checkpoint on.

    A run that another process computes is waited for; with `begun`, which is told the run's id once it is this process's,
    that raises Busy instead. An error ends the run as a failed one, with the reason in its folder. Raises Stopped where
    `stop` asked for it, and Lost where another process of `team`, which trains it, has died and the run is to be tried again.
    """
    folder = workspace.run(run_id(spec))
    if folder.result.exists():
        return finished(folder)
    with atomic.locked(folder.lock, wait=begun is None) as mine:
        if not mine:
            raise Busy
        if folder.result.exists():
            return finished(folder)
        if begun is not None:
            begun(folder.path.name)
        atomic.sweep(folder.path)
        if folder.failure.exists():
            folder.forget_failure()
        elif reason := attempts.exhausted(folder):
            bury(folder, reason)
            return finished(folder)
        attempts.note(folder, "begun")
        try:
            with heartbeat.beating(folder), vitals.taken(folder):
                result = _compute(spec, folder, workspace, roots, resources, stop, team or Team())
        except (Stopped, KeyboardInterrupt):
            attempts.note(folder, "stopped")
            raise
        except Lost as error:
            if not (reason := attempts.exhausted(folder)):
                raise
            result = failure(folder, f"{reason}: {error}")
        except Exception as error:
            if disk.trouble(workspace.path):
                raise  # no fault of the run, and nowhere to write it down
            result = failure(folder, explained(error))
        folder.write_outcome(result)
        return result


def finished(folder: RunFolder) -> RunResult:
    outcome = folder.outcome()
    assert outcome is not None
    return outcome


def explained(error: Exception) -> str:
    """The error in its own words and, where it is not one that we raise ourselves, where it came from."""
    if isinstance(error, (Diverged, ValueError)):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno}, in {last.name})"


def _compute(
    spec: RunSpec, folder: RunFolder, workspace: Workspace, roots: Roots, resources: Resources, stop: Stop, team: Team
) -> RunResult:
    atomic.write_text(folder.spec, spec.model_dump_json(indent=1) + "\n")
    resources = settle(resources.model_copy(update={"processes": team.size}), spec, folder)
    device = device_of(resources)
    manifest_folder = curated(spec, workspace, roots, resources, stop)
    manifest = manifest_folder.read()
    assert manifest is not None  # curate() returns whole folders only
    sources, measured, skipped = opened(spec, roots)
    fingerprints = {uri: source.fingerprint() for uri, source in sources.items()}
    train = chosen_pictures(sources[spec.data.train], manifest_folder, workspace)
    if len(train) == 0:
        raise ValueError(f"{spec.data.train}: curation has left no image to train on")
    px, places = spec.views.global_px, Places(workspace, roots)
    unlabelled = train.some(range(min(len(train), protocol.HEALTH_IMAGES)))
    data = evaluation_data(measured.evaluation, px, sources, unlabelled, places)
    start = start_of(spec, workspace, roots, resources, stop)
    provenance.write(
        folder.provenance,
        resources,
        name_of(device),
        manifest_folder.path.relative_to(workspace.path),
        fingerprints,
        digest(start.teacher) if start else None,
    )
    draw_views(spec, train, folder.pictures)
    frozen = _frozen(spec, workspace, roots, resources, stop)
    with team.training(_order(spec, manifest_folder.path, workspace, roots, resources), device):
        look = lambda teacher, student: looks(teacher, student, spec, data)
        trained = loop.train(spec, train, folder, resources, device, look, stop, start, frozen)
    if trained is None:
        raise Stopped
    metrics = finals(eyes(trained.backbone, px), data, spec.evaluation)
    metrics |= best_looks(folder.rows(), spec.evaluation) | references(spec, data, device, start)
    metrics |= {name: value for name, value in folder.rows()[-1].items() if name.startswith("loss/")}
    checkpoint.save_backbone(trained.backbone, folder.backbone)
    draw_examples(manifest_folder, sources[spec.data.train], roots)
    certify(manifest_folder, measured, workspace, roots, resources, stop)
    return RunResult(
        run=folder.path.name,
        status="finished",
        metrics=metrics,
        cost=_cost(spec, trained),
        verdict=trained.verdict,
        parameters=sum(p.numel() for p in trained.backbone.parameters()),
        manifest=manifest.id,
        sources=fingerprints,
        skipped=skipped,
        code=provenance.code_id(),
        commit=provenance.commit(),
        environment=provenance.environment(name_of(device)),
        finished_at=time.time(),
    )


def _order(spec: RunSpec, manifest: Path, workspace: Workspace, roots: Roots, resources: Resources) -> dict[str, Any]:
    """For the other processes: what `train_along` is called with."""
    places = {"manifest": manifest, "workspace": workspace.path, "data": roots.data, "cache": roots.cache}
    asked = {"spec": spec.model_dump(mode="json"), "resources": resources.model_dump(mode="json")}
    return {name: str(path.resolve()) for name, path in places.items()} | asked


def train_along(
    spec: RunSpec,
    manifest: Path,
    workspace: Workspace,
    roots: Roots,
    resources: Resources,
    device: torch.device,
    stop: Stop,
) -> None:
    """What another process than the first does of a run, when all that training needs is there."""
    pictures = chosen_pictures(open_source(spec.data.train, roots), ManifestFolder(manifest), workspace)
    start = start_of(spec, workspace, roots, resources, stop)
    frozen = _frozen(spec, workspace, roots, resources, stop)
    loop.train(spec, pictures, workspace.run(run_id(spec)), resources, device, lambda *_: {}, stop, start, frozen)


def curated(
    spec: RunSpec,
    workspace: Workspace,
    roots: Roots,
    resources: Resources,
    stop: Stop = never,
    **how: Any,
) -> ManifestFolder:
    """The images that the run trains on, from the cache where they are there. Training makes one embedder after another.

    `how`: what else pipeline.curate() is to know.
    """
    key, train = Key(spec.seed, spec.replicate), open_source(spec.data.train, roots)
    return pipeline.curate(train, spec.curation, key, **for_curation(workspace, roots, resources, stop), **how)


def certify(
    folder: ManifestFolder, spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources, stop: Stop
) -> None:
    """Near copies of what the run is tested on among what it has trained on, told beside its manifest."""
    if tested := [spec.evaluation.test] if spec.evaluation.test else []:
        train = open_source(spec.data.train, roots)
        pipeline.certify(folder, train, spec.curation, tested, **for_curation(workspace, roots, resources, stop))


def for_curation(workspace: Workspace, roots: Roots, resources: Resources, stop: Stop = never) -> dict[str, Any]:
    """What curation is handed: sources by name, embeddings, its cache and its index."""
    networks: dict[str, tuple[Backbone | Pretrained, int]] = {}

    def embed(embedder: Embedder, source: Source, rows: Sequence[int]) -> NDArray[np.float32]:
        """In blocks, of which all but the first find the network open."""
        name = content_id(embedder)
        if name not in networks:
            networks[name] = _embedder(embedder, workspace, roots, resources, stop)
        backbone, px = networks[name]
        if resources.device != "cpu" and torch.cuda.is_available():
            backbone.cuda()
        found = features(backbone, evaluation_batches(Pictures(source, rows, budget=0), px))
        unit: NDArray[np.float32] = torch.nn.functional.normalize(found, dim=-1).numpy()
        return unit

    search = Search(kind=resources.search, memory=int(resources.memory_gb * 2**30))
    cache = workspace.cache / "manifests"
    return {"open": lambda uri: open_source(uri, roots), "embed": embed, "cache": cache, "search": search}


def _embedder(
    embedder: Embedder, workspace: Workspace, roots: Roots, resources: Resources, stop: Stop
) -> tuple[Backbone | Pretrained, int]:
    match embedder:
        case RunEmbedder():
            folder = _needed("the embedder", embedder.run, workspace, roots, resources, stop)
            return load_backbone(embedder.run, folder.backbone), embedder.run.views.global_px
        case TimmEmbedder():
            return Pretrained(embedder.name, embedder.px), embedder.px
        case _:
            raise ValueError(f"{embedder.kind}: not an embedder with a network")


def _needed(
    what: str, spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources, stop: Stop
) -> RunFolder:
    """The folder of a run that another one needs, which is trained first where it is missing."""
    result = execute(spec, workspace, roots, resources, stop=stop)
    if result.status == "failed":
        raise ValueError(f"{what} (run {result.run}) failed: {result.error}")
    return workspace.run(result.run)


def start_of(spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources, stop: Stop) -> Start | None:
    match spec.model.weights:
        case None:
            return None
        case RunWeights(run=run, heads=heads):
            folder = _needed("the run of model.weights", run, workspace, roots, resources, stop)
            return from_run(spec, folder.checkpoint, heads=heads)
        case weights:
            return from_public(spec, weights, roots.data)


def _frozen(
    spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources, stop: Stop
) -> torch.nn.ModuleDict | None:
    if spec.objective.distill is None:
        return None
    run = spec.objective.distill.run
    folder = _needed("the teacher of objective.distill", run, workspace, roots, resources, stop)
    return frozen_teacher(run, folder.checkpoint)


def _cost(spec: RunSpec, trained: loop.Trained) -> Cost:
    return Cost(
        images=images_of_run(spec),
        flops=flops_of_run(spec),
        seconds=trained.seconds,
        peak_memory_mb=trained.peak_memory_mb,
    )
