"""Curation alone: in one process, or cut into parts for several; and what became of an image."""

from pathlib import Path

from dinov2lab.curation.pipeline import share
from dinov2lab.curation.shards import Cut
from dinov2lab.curation.why import find_manifest
from dinov2lab.curation.why import why as told
from dinov2lab.data.source import Roots, open_source
from dinov2lab.lab.execute import curated, for_curation
from dinov2lab.lab.pictures import draw_examples
from dinov2lab.progress import watching
from dinov2lab.report.curation_page import write_page
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import ManifestFolder


def check(append: bool, shard: int | None, shards: int) -> None:
    """Raises ValueError for what does not go together."""
    if append and shards > 1:
        raise ValueError("--append and --shards do not go together: what is added is worked on as one")
    if shard is not None and not 0 <= shard < shards:
        raise ValueError(f"--shard {shard}: with --shards {shards} they are numbered from 0 to {shards - 1}")


def curate(
    spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources, *, shards: int = 1, append: bool = False
) -> tuple[ManifestFolder, Path]:
    """The manifest of a recipe's training images, and the page on it; shows how far it is, and its embedders' training."""
    with watching(_embedders(spec), workspace, ()) as view:
        folder = curated(spec, workspace, roots, resources, tell=view.step, shards=shards, append=append)
    draw_examples(folder, open_source(spec.data.train, roots), roots)
    page = folder.path / "index.html"
    write_page(folder, page, f"What was kept of {spec.data.train}")
    return folder, page


def curate_part(
    spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources, shard: int, shards: int
) -> list[str]:
    """One part of what is done image by image; returns what waits for the other parts, in words."""
    train = open_source(spec.data.train, roots)
    with watching(_embedders(spec), workspace, ()) as view:
        how = for_curation(workspace, roots, resources) | {"tell": view.step}
        return share(train, spec.curation, Cut(shards, shard), **how)


def _embedders(spec: RunSpec) -> list[Cell]:
    recipes = spec.curation.recipes() if spec.curation else ()
    return [Cell("embedder", recipe.seed, run_id(recipe), recipe) for recipe in recipes]


def why(path: str, manifest: str | None, workspace: Workspace) -> list[str]:
    """What became of one image of a manifest, in words."""
    return told(find_manifest(workspace.cache / "manifests", manifest), path)
