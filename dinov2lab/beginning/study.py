"""The first study of a folder of images: what the images themselves leave open."""

from typing import NamedTuple

from dinov2lab.beginning.recipe import DETECTABLE, NAME
from dinov2lab.beginning.survey import LIKE, Survey

SEEDS = 3
WORTH = 0.01  # of the images: copies that are fewer are no question of a first study
SHARES = (0.1, 0.3)  # of the images, beside all of them
LEAST = 32  # images of an arm: one KoLeo group of a batch


class First(NamedTuple):
    name: str
    question: str
    why: str
    arms: dict[str, str]  # name -> its overrides, as YAML
    metric: str
    text: str

    @property
    def runs(self) -> int:
        return SEEDS * len(self.arms)


def first_study(found: Survey) -> First:
    share, about = found.copied_share, "" if found.whole else "about "
    seen = "" if found.whole else f" ({found.pairs:,} pairs in a sample of {found.sampled:,})"
    if share >= WORTH:
        why = f"{about}{100 * share:.0f} % of the images have a near copy{seen}"
        return _first(f"{NAME}_copies", "Is the set better without its near copies?", why, _copies(found), found)
    why = f"{about}{100 * share:.1f} % of the images have a near copy{seen}, too few for a first question"
    return _first(f"{NAME}_data_size", "How much of the data is enough?", why, _sizes(found), found)


def stages_against_copies(found: Survey) -> str:
    few = found.images <= DETECTABLE
    how = f"embedder: {{kind: copies}}, threshold: {LIKE}" if few else "threshold: 0.95"
    return f"[{{stage: duplicates, {how}}}]"


def _copies(found: Survey) -> dict[str, str]:
    return {"all": "{}", "deduplicated": f"{{curation.stages: {stages_against_copies(found)}}}"}


def _sizes(found: Survey) -> dict[str, str]:
    counts = [round(share * found.images) for share in SHARES]
    return {
        f"images_{count}": f"{{curation.stages: [{{stage: sample, images: {count}}}]}}"
        for count in counts
        if count >= LEAST
    } | {"all": "{}"}


def metrics_of(found: Survey) -> tuple[str, ...]:
    """Those that the images allow; the first one decides."""
    if not found.layout.labelled:
        return ("health/rankme", "health/uniformity")
    on = "test" if found.layout.test is not None else "val"
    return (f"{on}/knn", f"{on}/linear")


def _first(name: str, question: str, why: str, arms: dict[str, str], found: Survey) -> First:
    metrics = metrics_of(found)
    lines = [
        "# yaml-language-server: $schema=../schemas/study.json",
        f"# As `dinov2lab init --images` proposed it, because {why}.",
        *(f"# {line}" for line in _limits(metrics[0])),
        f"question: {question}",
        f"base: ../experiments/{NAME}.yaml",
        "factor: curation.stages",
        "equal: steps # so that a smaller set is seen more often, and no arm costs more than another",
        *(["axis: training_images"] if len(arms) > 2 else []),
        "baseline: all",
        f"seeds: {list(range(SEEDS))}",
        f"metrics: [{', '.join(metrics)}]",
        f"decide: {{metric: {metrics[0]}, alpha: 0.05, rule: blocked}}",
        "arms:",
        *(f"  {arm}: {changes}" for arm, changes in arms.items()),
    ]
    return First(name, question, why, arms, metrics[0], "\n".join(lines) + "\n")


def _limits(metric: str) -> list[str]:
    """What it can tell, and what it cannot."""
    if metric.startswith("health"):
        return [
            "Without labels it can say whether features spread less or collapse, and nothing of which are better: a rank",
            "is no quality. Labels for a few hundred images, in a folder for each class, would change that.",
        ]
    few = f"With {SEEDS} seeds large differences alone can be told apart; the report says which, and --more-seeds adds some."
    if metric.startswith("val"):
        return [
            few,
            "There is no test set: val decides, on which k and the probe's rate are chosen too, for all arms alike.",
        ]
    return [few]
