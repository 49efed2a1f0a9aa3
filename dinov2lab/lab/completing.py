"""Measuring later what a run has skipped as its images were not there, as its own end would have, beside its result."""

import time

from dinov2lab.evaluation.protocol import HEALTH_IMAGES
from dinov2lab.lab import provenance
from dinov2lab.lab.exam import Places, chosen_pictures, evaluation_data, opened
from dinov2lab.lab.execute import certify, finished, never, start_of
from dinov2lab.lab.judging import finals, references
from dinov2lab.lab.machine import device_of, name_of
from dinov2lab.lab.seeing import eyes
from dinov2lab.model.weights import load_backbone
from dinov2lab.spec.resources import Resources
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder
from dinov2lab.store.result import Completion, RunFolder, RunResult


def complete(folder: RunFolder, places: Places, resources: Resources) -> Completion | None:
    """completion.json of a finished run, where some of the images that it skips are there now; None where none is.

    The looks that it could not take while it trained cannot be made up for.
    """
    result, spec = RunResult.model_validate_json(folder.result.read_bytes()), folder.read_spec()
    sources, measured, missing = opened(spec, places.roots)
    if not finished(folder).skipped.keys() - missing.keys():
        return None
    manifest = ManifestFolder(places.workspace.path / folder.read_provenance()["manifest_folder"])
    train, px = chosen_pictures(sources[spec.data.train], manifest, places.workspace), spec.views.global_px
    unlabelled = train.some(range(min(len(train), HEALTH_IMAGES)))
    data, device = evaluation_data(measured.evaluation, px, sources, unlabelled, places), device_of(resources)
    metrics = finals(eyes(load_backbone(spec, folder.backbone).to(device), px), data, spec.evaluation)
    metrics |= references(spec, data, device, start_of(spec, places.workspace, places.roots, resources, never))
    certify(manifest, measured, places.workspace, places.roots, resources, never)
    healthy = spec.evaluation.memory in result.skipped.keys() - missing.keys()  # of the memory now, no more of training
    later = Completion(
        metrics={
            name: value
            for name, value in metrics.items()
            if name not in result.metrics or (healthy and name.startswith("health/"))
        },
        skipped=missing,
        sources={uri: source.fingerprint() for uri, source in sources.items() if uri in spec.only_evaluated_on()},
        code=provenance.code_id(),
        commit=provenance.commit(),
        environment=provenance.environment(name_of(device)),
        finished_at=time.time(),
    )
    atomic.write_text(folder.completion, later.model_dump_json(indent=1) + "\n")
    return later
