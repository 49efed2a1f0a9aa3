"""What a run is judged by: its labelled images, how a network is seen by an evaluation, and the two reference rows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dinov2lab.curation import pipeline
from dinov2lab.data.loader import Pictures, evaluation_batches
from dinov2lab.data.source import Roots, Source, labels_as, open_source
from dinov2lab.draws import Key
from dinov2lab.evaluation import protocol
from dinov2lab.model.features import features
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.curation import Embedder
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import ManifestFolder
from dinov2lab.training.start import Start
from dinov2lab.training.teacher import build_student


def embedding(backbone: Backbone, px: int) -> protocol.Embedding:
    """How evaluations see a backbone: as a function from pictures to features."""
    return lambda pictures: features(backbone, evaluation_batches(pictures, px))


def chosen_pictures(source: Source, manifest: ManifestFolder) -> Pictures:
    kept = manifest.table("kept")
    assert kept is not None  # every folder has it
    return Pictures(source, kept["row"].to_pylist())


def evaluation_data(
    spec: RunSpec, sources: dict[str, Source], train: Pictures, workspace: Workspace, roots: Roots
) -> protocol.EvaluationData:
    """Memory and test, as far as they are there and labelled; their unreadable images are left out by the same reading."""
    memory_uri, test_uri = spec.evaluation.memory, spec.evaluation.test
    unlabelled = Pictures(sources[spec.data.train], train.rows[: protocol.HEALTH_IMAGES])
    if memory_uri is None or len(sources[memory_uri].classes) < 2:
        return protocol.EvaluationData(None, None, unlabelled)
    classes = sources[memory_uri].classes

    def labelled(uri: str) -> protocol.Labelled:
        source = sources[uri]
        read = pipeline.curate(
            source,
            None,
            Key(0),
            open=lambda u: open_source(u, roots),
            embed=_no_embedder,
            cache=workspace.cache / "manifests",
        )
        pictures = chosen_pictures(source, read)
        return protocol.Labelled(pictures, torch.from_numpy(labels_as(source, classes)[list(pictures.rows)]))

    test = labelled(test_uri) if test_uri is not None and sources[test_uri].labels is not None else None
    return protocol.EvaluationData(labelled(memory_uri), test, unlabelled)


def _no_embedder(embedder: Embedder, source: Source, rows: Sequence[int]) -> NDArray[np.float32]:
    raise AssertionError("a source that is only read needs no embedder")


def references(
    spec: RunSpec, data: protocol.EvaluationData, device: torch.device, start: Start | None
) -> dict[str, float]:
    """The reference rows of every report: raw pixels, this network with drawn weights, and with those it began with."""
    if data.memory is None:
        return {}
    student, px = build_student(spec, Key(spec.seed, spec.replicate)).to(device), spec.views.global_px
    untrained = student["backbone"]
    assert isinstance(untrained, Backbone)
    rows = _finals({"pixels": protocol.pixels, "untrained": embedding(untrained, px)}, spec, data)
    if start:
        student.load_state_dict(start.teacher, strict=False)
        rows |= _finals({"initial": embedding(untrained, px)}, spec, data)
    return rows


def _finals(
    embeddings: dict[str, protocol.Embedding], spec: RunSpec, data: protocol.EvaluationData
) -> dict[str, float]:
    return {
        f"{name}/{metric}": value
        for name, embed in embeddings.items()
        for metric, value in protocol.final(embed, data, spec.evaluation).items()
        if not metric.startswith("choice/")
    }
