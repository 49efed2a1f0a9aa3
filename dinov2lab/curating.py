"""Curation alone: in one process, or cut into parts for several; and what became of an image."""

from collections.abc import Sequence
from typing import NamedTuple

from dinov2lab import terminal
from dinov2lab.curation.pipeline import share
from dinov2lab.curation.shards import Cut
from dinov2lab.curation.why import find_manifest
from dinov2lab.curation.why import why as told
from dinov2lab.data.source import Roots, open_source
from dinov2lab.lab import submit_curation
from dinov2lab.lab.execute import curated, for_curation
from dinov2lab.lab.pictures import draw_examples
from dinov2lab.progress import watching
from dinov2lab.report.curation_page import write_page
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.profile import load_profile
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Cell
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace


class Work(NamedTuple):
    spec: RunSpec
    workspace: Workspace
    roots: Roots
    resources: Resources
    shards: int


def curate(work: Work, append: bool, as_json: bool) -> None:
    """Show the funnel of a recipe's training images, and write a page on it; tell how far it is meanwhile."""
    spec, workspace, roots, resources, shards = work
    with watching(_embedders(spec), workspace, ()) as view:
        folder = curated(spec, workspace, roots, resources, tell=view.step, shards=shards, append=append)
    draw_examples(folder, open_source(spec.data.train, roots), roots)
    page = folder.path / "index.html"
    write_page(folder, page, f"What was kept of {spec.data.train}")
    terminal.show_funnel(folder.funnel(), folder.path, as_json)
    if not as_json:
        terminal.say(f"page      {page}")


def curate_part(work: Work, shard: int) -> None:
    """One part of what is done image by image; says what waits for the other parts."""
    train = open_source(work.spec.data.train, work.roots)
    with watching(_embedders(work.spec), work.workspace, ()) as view:
        how = for_curation(work.workspace, work.roots, work.resources) | {"tell": view.step}
        waiting = share(train, work.spec.curation, Cut(work.shards, shard), **how)
    for line in waiting:
        terminal.note(f"{line}; then the same command once more")


def send(
    name: str, work: Work, profiles: Sequence[str], settings: Sequence[str], *, dry_run: bool, as_json: bool
) -> None:
    """To Slurm: an array of shards, as often as what they need of each other has to be there first, and a last job."""
    if len(profiles) > 1:
        raise ValueError("--profile: a curation has one")
    profile = load_profile(profiles[0] if profiles else None, settings)
    order = submit_curation.Order(name, work.spec, work.shards, profile, work.workspace, work.roots)
    if dry_run:
        terminal.show_scripts(submit_curation.preview(order), as_json)
        return
    with atomic.locked(work.workspace.slurm / "lock"):
        jobs = submit_curation.submit(order)
    if as_json:
        terminal.say_json({"recipe": name, "shards": work.shards, "jobs": list(jobs)})
        return
    terminal.say(f"{terminal.plural(work.shards, 'shard')} submitted, jobs {', '.join(jobs)}; afterwards")
    terminal.say(f"  dinov2lab curate {name} --shards {work.shards}    # shows what they have left")


def _embedders(spec: RunSpec) -> list[Cell]:
    recipes = spec.curation.recipes() if spec.curation else ()
    return [Cell("embedder", recipe.seed, run_id(recipe), recipe) for recipe in recipes]


def why(path: str, manifest: str | None, workspace: Workspace) -> list[str]:
    """What became of one image of a manifest, in words."""
    return told(find_manifest(workspace.cache / "manifests", manifest), path)
