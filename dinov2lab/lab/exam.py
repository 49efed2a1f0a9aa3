"""The images that networks are evaluated on, and what is known of them: labels, masks, depths, originals of copies.

Their unreadable images are left out by the same reading as those of a training set.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinov2lab.curation import pipeline
from dinov2lab.data.loader import Pictures, centred
from dinov2lab.data.revisited import GALLERY, QUERY, RevisitedSource
from dinov2lab.data.source import Missing, ParquetSource, Roots, Source, Unreadable, labels_as, open_source
from dinov2lab.draws import Key, permutation
from dinov2lab.evaluation import protocol
from dinov2lab.spec.embedders import Embedder
from dinov2lab.spec.evaluation import EvaluationSpec
from dinov2lab.spec.identity import content_id
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import ManifestFolder


class Places(NamedTuple):
    workspace: Workspace
    roots: Roots


def opened(spec: RunSpec, roots: Roots) -> tuple[dict[str, Source], RunSpec, dict[str, str]]:
    """(The sources of a run by URI, what of the run is measured on them, why others are not there.)

    What is only evaluated on may be missing. Raises ValueError where another source is not there, or any cannot be opened.
    """
    sources, missing = dict[str, Source](), dict[str, str]()
    for uri in spec.sources():
        try:
            sources[uri] = open_source(uri, roots)
        except Missing as error:
            if uri not in spec.only_evaluated_on():
                raise
            missing[uri] = because(uri, error)
    return sources, spec.model_copy(update={"evaluation": spec.evaluation.without(missing)}), missing


def because(uri: str, error: Exception) -> str:
    """What is wrong with `uri`, without its name."""
    return str(error).splitlines()[0].removeprefix(f"{uri}: ")


def chosen_pictures(source: Source, manifest: ManifestFolder, workspace: Workspace) -> Pictures:
    kept = manifest.table("kept")
    assert kept is not None  # every folder has it
    contents = content_id(kept["content"].to_pylist())
    return Pictures(source, kept["row"].to_pylist(), cache=workspace.cache / "decoded", images=contents)


def evaluation_data(
    spec: EvaluationSpec, px: int, sources: Mapping[str, Source], unlabelled: Pictures, places: Places
) -> protocol.EvaluationData:
    """What `spec` asks for, as far as it is there and labelled. Raises ValueError where a source lacks it."""
    whole = Whole(spec, px, sources, places)
    data = protocol.EvaluationData(None, None, unlabelled)
    if spec.depth is not None:
        data = data._replace(memory_deep=whole.deep(spec.depth.memory), test_deep=whole.deep(spec.depth.test))
    if spec.revisited is not None:
        data = data._replace(revisited=whole.revisited(spec.revisited))
    if spec.memory is None:
        return data
    if spec.copies is not None:
        data = data._replace(copied=whole.copied(spec.memory, spec.copies))
    if spec.segmentation is not None:
        data = data._replace(memory_masked=whole.masked(spec.memory), test_masked=whole.masked(spec.test))
    if len(sources[spec.memory].classes) < 2:
        return data
    return data._replace(
        memory=whole.labelled(spec.memory),
        test=whole.labelled(spec.test) if spec.test and sources[spec.test].labels is not None else None,
        shifted=tuple(protocol.Named(each.name, whole.labelled(each.source)) for each in spec.shifted),
    )


class Whole(NamedTuple):
    """The opened sources of an evaluation."""

    spec: EvaluationSpec
    px: int
    sources: Mapping[str, Source]
    places: Places

    def pictures(self, uri: str) -> Pictures:
        workspace, roots = self.places
        opened = lambda u: open_source(u, roots)
        cache = workspace.cache / "manifests"
        read = pipeline.curate(self.sources[uri], None, Key(0), open=opened, embed=_no_embedder, cache=cache)
        return chosen_pictures(self.sources[uri], read, workspace)

    def labelled(self, uri: str) -> protocol.Labelled:
        assert self.spec.memory is not None
        pictures, classes = self.pictures(uri), self.sources[self.spec.memory].classes
        return protocol.Labelled(pictures, torch.from_numpy(labels_as(self.sources[uri], classes)[list(pictures.rows)]))

    def masked(self, uri: str | None) -> protocol.Masked | None:
        """As many images with masks as the spec allows."""
        if uri is None:
            return None
        source = self.sources[uri]
        if not isinstance(source, ParquetSource) or not source.masked:
            raise ValueError(f"evaluation.segmentation: {uri} has no masks (a Parquet column 'mask' of grey images)")
        assert self.spec.segmentation is not None
        pictures = self._some(uri, self.spec.segmentation.images)
        return protocol.Masked(pictures, _maps(source, pictures.rows, source.mask, self.px))

    def deep(self, uri: str | None) -> protocol.Deep | None:
        if uri is None:
            return None
        source = self.sources[uri]
        if not isinstance(source, ParquetSource) or not source.deep:
            raise ValueError(f"evaluation.depth: {uri} has no depths (a Parquet column 'depth' of grey images)")
        assert self.spec.depth is not None
        pictures = self._some(uri, self.spec.depth.images)
        return protocol.Deep(pictures, _maps(source, pictures.rows, source.depth, self.px))

    def copied(self, memory: str, uri: str) -> protocol.Copied:
        source = self.sources[uri]
        if not isinstance(source, ParquetSource) or not source.paired:
            raise ValueError(
                f"evaluation.copies: {uri} says of no image what it is a copy of (a Parquet column 'copy_of')"
            )
        gallery, queries, originals = self.pictures(memory), self.pictures(uri), source.originals()
        place = {gallery.name(index): index for index in range(len(gallery))}
        named = [originals[row] for row in queries.rows]
        if strange := [name for name in named if name is not None and name not in place]:
            raise ValueError(f"evaluation.copies: {uri} names {strange[0]!r}, which is no image of {memory}")
        found = [-1 if name is None else place[name] for name in named]
        return protocol.Copied(gallery, queries, torch.tensor(found))

    def revisited(self, uri: str) -> protocol.Revisited:
        """Whole: an image that cannot be read would make another task of it."""
        source = self.sources[uri]
        if not isinstance(source, RevisitedSource):
            raise ValueError(f"evaluation.revisited: {uri} has no ground truth; it must be revisited:PATH")
        pictures = self.pictures(uri)
        place = {pictures.name(index): index for index in range(len(pictures))}
        if lost := [path for path in source.paths if path not in place]:
            raise ValueError(f"{uri}: {len(lost)} of its images cannot be read, such as {lost[0]}")
        both = [[place[path] for path in source.paths if path.startswith(side)] for side in (GALLERY, QUERY)]
        return protocol.Revisited(pictures.some(both[0]), pictures.some(both[1]), source.truth)

    def _some(self, uri: str, count: int) -> Pictures:
        """In a random order that is the same for every run."""
        pictures = self.pictures(uri)
        return pictures.some(permutation(Key(0), "segmentation", len(pictures))[:count].tolist())


def _maps(source: ParquetSource, rows: Sequence[int], read: Callable[[int], bytes], px: int) -> Tensor:
    """(B, px, px) of the central squares: uint8 as they are, or with 16 bits as shares of white."""
    deep = read == source.depth
    found = [_map(source, row, read, px) for row in rows]
    if not deep:
        return torch.from_numpy(np.stack(found))
    return torch.from_numpy(np.stack([each.astype(np.float32) / np.iinfo(each.dtype).max for each in found]))


def _map(source: ParquetSource, row: int, read: Callable[[int], bytes], px: int) -> NDArray[np.uint8 | np.uint16]:
    """Raises ValueError, naming the image, where it cannot be read."""
    try:
        with Image.open(io.BytesIO(read(row))) as image:
            grey = image if image.mode == "I;16" else image.convert("L")
            return np.asarray(centred(grey, px, Image.Resampling.NEAREST))
    except (OSError, Unreadable) as error:
        what = "mask" if read == source.mask else "depth"
        raise ValueError(f"{source.uri}: the {what} of {source.paths[row]} cannot be read") from error


def _no_embedder(embedder: Embedder, source: Source, rows: Sequence[int]) -> NDArray[np.float32]:
    raise AssertionError("a source that is only read needs no embedder")
