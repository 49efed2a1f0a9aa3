"""What a run is judged by: its labelled images, how a network is seen by an evaluation, and the two reference rows."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.curation import pipeline
from dinov2lab.data.loader import Pictures, centred, evaluation_batches
from dinov2lab.data.source import ParquetSource, Roots, Source, Unreadable, labels_as, open_source
from dinov2lab.draws import Key, permutation
from dinov2lab.evaluation import protocol
from dinov2lab.model.features import features, patch_features
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.curation import Embedder
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import ManifestFolder
from dinov2lab.training.start import Start
from dinov2lab.training.teacher import build_student


def embedding(backbone: Backbone, px: int) -> protocol.Embedding:
    """How evaluations see a backbone: as a function from pictures to features."""
    return lambda pictures: features(backbone, evaluation_batches(pictures, px))


def finals(backbone: Backbone, spec: RunSpec, data: protocol.EvaluationData) -> dict[str, float]:
    """Everything that is measured of a backbone in the end."""
    px = spec.views.global_px
    values = protocol.final(embedding(backbone, px), data, spec.evaluation)
    return values | protocol.segmentation(_patch_embedding(backbone, px), data, spec.evaluation)


def _patch_embedding(backbone: Backbone, px: int) -> protocol.Embedding:
    return lambda pictures: patch_features(backbone, evaluation_batches(pictures, px))


def _pixel_finals(spec: RunSpec, data: protocol.EvaluationData) -> dict[str, float]:
    px, patch = spec.views.global_px, spec.model.patch
    values = protocol.final(protocol.pixels, data, spec.evaluation)
    return values | protocol.segmentation(lambda it: protocol.pixel_patches(it, px, patch), data, spec.evaluation)


def chosen_pictures(source: Source, manifest: ManifestFolder, workspace: Workspace) -> Pictures:
    kept = manifest.table("kept")
    assert kept is not None  # every folder has it
    contents = content_id(kept["content"].to_pylist())
    return Pictures(source, kept["row"].to_pylist(), cache=workspace.cache / "decoded", images=contents)


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
        pictures = chosen_pictures(source, read, workspace)
        return protocol.Labelled(pictures, torch.from_numpy(labels_as(source, classes)[list(pictures.rows)]))

    memory = labelled(memory_uri)
    test = labelled(test_uri) if test_uri is not None and sources[test_uri].labels is not None else None
    if spec.evaluation.segmentation is None:
        return protocol.EvaluationData(memory, test, unlabelled)
    masked = [_masked(sources[memory_uri], memory.pictures, spec)]
    masked += [_masked(sources[test_uri], test.pictures, spec)] if test_uri is not None and test else [None]
    return protocol.EvaluationData(memory, test, unlabelled, *masked)


def _masked(source: Source, pictures: Pictures, spec: RunSpec) -> protocol.Masked | None:
    """Images with their masks, in a random order that is the same for every run, as many as the spec allows."""
    if not isinstance(source, ParquetSource) or not source.masked:
        raise ValueError(f"evaluation.segmentation: {source.uri} has no masks (a Parquet column 'mask' of grey images)")
    assert spec.evaluation.segmentation is not None
    order = permutation(Key(0), "segmentation", len(pictures))[: spec.evaluation.segmentation.images]
    rows = [pictures.rows[place] for place in order.tolist()]
    masks = [_mask(source, row, spec.views.global_px) for row in rows]
    return protocol.Masked(Pictures(source, rows), torch.from_numpy(np.stack(masks)))


def _mask(source: ParquetSource, row: int, px: int) -> NDArray[np.uint8]:
    """(px, px) of the central square. Raises ValueError, naming the image, where it cannot be read."""
    try:
        with Image.open(io.BytesIO(source.mask(row))) as image:
            return np.asarray(centred(image.convert("L"), px, Image.Resampling.NEAREST))
    except (OSError, Unreadable) as error:
        raise ValueError(f"{source.uri}: the mask of {source.paths[row]} cannot be read") from error


def _no_embedder(embedder: Embedder, source: Source, rows: Sequence[int]) -> NDArray[np.float32]:
    raise AssertionError("a source that is only read needs no embedder")


def references(
    spec: RunSpec, data: protocol.EvaluationData, device: torch.device, start: Start | None
) -> dict[str, float]:
    """The reference rows of every report: raw pixels, this network with drawn weights, and with those it began with."""
    if data.memory is None:
        return {}
    student = build_student(spec, Key(spec.seed, spec.replicate)).to(device)
    untrained = student["backbone"]
    assert isinstance(untrained, Backbone)
    rows = _named("pixels", _pixel_finals(spec, data)) | _named("untrained", finals(untrained, spec, data))
    if start:
        student.load_state_dict(start.teacher, strict=False)
        rows |= _named("initial", finals(untrained, spec, data))
    return rows


def _named(reference: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{reference}/{name}": value for name, value in values.items() if not name.startswith("choice/")}
