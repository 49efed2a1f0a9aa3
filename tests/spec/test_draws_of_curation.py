"""Which curations give each seed images of its own."""

from pathlib import Path

import pytest

from dinov2lab.spec.load import load_study

ABLATIONS = Path(__file__).parents[2] / "ablations"


@pytest.mark.parametrize(
    ("study", "drawn"),
    [
        ("curation_strategies", {"raw", "clustered", "mixture"}),
        ("curation_vs_uncurated", {"uncurated", "deduplicated"}),
        ("loss_components", set()),
    ],
)
def test_arms_whose_images_a_seed_decides(study: str, drawn: set[str]) -> None:
    arms = load_study(ABLATIONS / f"{study}.yaml").arms
    assert {arm.name for arm in arms if arm.spec.curation and arm.spec.curation.draws()} == drawn
