"""What arms differ in besides the factor that their study names: a difference that such an arm shows may come from there."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dinov2lab.report import words
from dinov2lab.report.tables import Run
from dinov2lab.spec.study import Study, images_selected
from dinov2lab.store.manifest import ManifestFolder

UNLIKE = 0.01  # relative difference of a cost below which two arms cost the same


class Facts(NamedTuple):
    """Of one finished run."""

    training_images: int | None
    images_seen: int
    flops: int
    parameters: int | None
    batch: int
    environment: tuple[tuple[str, str], ...]


def confounds(study: Study, runs: Iterable[Run]) -> dict[str, str]:
    """Arm -> what it differs in from the baseline besides its factor, in words; arms that differ in nothing are left out."""
    facts = facts_of(runs)
    specs = {arm.name: arm.spec for arm in study.arms}
    wanted = images_selected(specs[study.baseline])
    found = {}
    for arm in specs:
        pairs = [
            (facts[arm, seed], facts[study.baseline, seed]) for seed in study.seeds if _both(facts, study, arm, seed)
        ]
        sized = wanted is not None and images_selected(specs[arm]) not in (None, wanted)
        said = list(dict.fromkeys(text for ours, theirs in pairs for text in _unlike(study, ours, theirs, sized)))
        if arm != study.baseline and said:
            found[arm] = words.listed(said)
    return found


def facts_of(runs: Iterable[Run]) -> dict[tuple[str, int], Facts]:
    """(arm, seed) -> what is known of each finished run."""
    sizes: dict[Path, int | None] = {}
    return {(run.arm, run.seed): _facts(run, sizes) for run in runs if run.status == "finished"}


def _both(facts: dict[tuple[str, int], Facts], study: Study, arm: str, seed: int) -> bool:
    return (arm, seed) in facts and (study.baseline, seed) in facts


def _facts(run: Run, sizes: dict[Path, int | None]) -> Facts:
    """`sizes`: of the manifests that were read already; many runs share one."""
    assert run.outcome
    if run.manifest and run.manifest not in sizes:
        manifest = ManifestFolder(run.manifest).read()
        sizes[run.manifest] = manifest.rows if manifest else None
    cost = run.outcome.cost
    return Facts(
        sizes[run.manifest] if run.manifest else None,
        cost.images if cost else 0,
        cost.flops if cost else 0,
        run.outcome.parameters,
        run.spec.optim.batch,
        tuple(sorted(run.outcome.environment.items())),
    )


def _unlike(study: Study, ours: Facts, theirs: Facts, sized: bool) -> Iterable[str]:
    """`sized`: the arms are meant to be trained on sets of different sizes."""
    if not sized and ours.training_images != theirs.training_images and None not in (ours[0], theirs[0]):
        yield f"training images ({words.count(ours.training_images or 0)}, not {words.count(theirs.training_images or 0)})"
    if study.equal in ("steps", "images") and ours.images_seen != theirs.images_seen:
        yield f"images seen ({words.amount(ours.images_seen)}, not {words.amount(theirs.images_seen)})"
    if study.equal in ("steps", "images") and abs(ours.flops - theirs.flops) > UNLIKE * theirs.flops:
        yield f"FLOPs ({words.amount(ours.flops)}, not {words.amount(theirs.flops)})"
    if ours.parameters != theirs.parameters and not _varied(study, "model"):
        yield f"parameters ({words.amount(ours.parameters or 0)}, not {words.amount(theirs.parameters or 0)})"
    if ours.batch != theirs.batch and not _varied(study, "optim.batch"):
        yield f"batch ({ours.batch}, not {theirs.batch})"
    for name, version in sorted(set(ours.environment) - set(theirs.environment)):
        yield f"{name} ({version}, not {dict(theirs.environment).get(name, 'known')})"


def _varied(study: Study, field: str) -> bool:
    """Whether the study's factor is the field, lies in it, or holds it."""
    return any(
        f"{one}.".startswith(f"{other}.") for each in study.factor for one, other in ((each, field), (field, each))
    )
