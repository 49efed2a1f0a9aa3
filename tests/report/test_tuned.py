"""What the report of a tuned study says of its searches, in both of its forms."""

import re
from pathlib import Path

import pytest
from reported import Fabricate, make_study

from dinov2lab.report.render import write_report
from dinov2lab.spec.search import Budget, SearchSpec
from dinov2lab.spec.study import Found, Tune

SEARCH = {"name": "rates", "base": {}, "space": {"optim.lr": {"log": [1e-5, 0.1]}}, "metrics": {"val/knn": "maximize"}}


def tune() -> Tune:
    search = SearchSpec.model_validate({**SEARCH, "budget": {"trials": 12}}, strict=False)
    found = {
        arm.name: Found(
            search=f"x.{arm.name}",
            seeds=(7_000_000 + place,),
            trial=4 + place,
            point={"optim.lr": 1.25e-3 * (1 + place)},
            value=0.61 + place / 100,
            points=6,
            images=40_000,
        )
        for place, arm in enumerate(make_study((0, 1)).arms)
    }
    return Tune(per_arm=search, budget=Budget(trials=6), found=found)


@pytest.mark.parametrize("file", ["report.md", "index.html"])
def test_budget_points_and_seeds_are_told(fabricate: Fabricate, tmp_path: Path, file: str) -> None:
    made = fabricate((0, 1), tune=tune())
    write_report(made.study, made.workspace, tmp_path / "x")
    text = " ".join(re.sub(r"<[^>]*>", " ", (tmp_path / "x" / file).read_text()).replace("|", " ").split())
    assert re.search("with the same budget, 6 trials of rates ?, and on seeds of its own", text)
    assert "it ran at its best point on seeds 0 and 1, which no search had seen" in text
    assert "No run of a search is evidence here" in text
    assert "how lucky that search was is part of the difference" in text
    assert "after its first 10 points tpe tries others in each arm" in text
    assert re.search(r"uncurated 7000000 6 40.{0,8} 4 61.0 0.00125 x.uncurated", text)
    assert re.search(r"retrieved 7000002 6 40.{0,8} 6 63.0 0.00375 x.retrieved", text)


@pytest.mark.parametrize("file", ["report.md", "index.html"])
def test_where_each_seed_was_tuned_for_the_interval_holds_the_luck_and_nothing_warns(
    fabricate: Fabricate, tmp_path: Path, file: str
) -> None:
    once = tune()
    found = {f"{arm}.{seed}": each for arm, each in once.found.items() for seed in (0, 1)}
    made = fabricate((0, 1), tune=once.model_copy(update={"per": "seed", "found": found}))
    write_report(made.study, made.workspace, tmp_path / "x")
    text = " ".join(re.sub(r"<[^>]*>", " ", (tmp_path / "x" / file).read_text()).replace("|", " ").split())
    assert "searched by itself for each of its seeds, with the same budget, 6 trials of rates, and on seeds" in text
    assert "hold how lucky the searches were, and the intervals with them" in text
    assert "that search was is part of the difference" not in text
    assert re.search(r"uncurated 1 7000000 6 40.{0,8} 4 61.0 0.00125 x.uncurated", text)
    assert "what the search for it found" in text


def test_of_any_other_study_nothing_of_it_is_said(fabricate: Fabricate, tmp_path: Path) -> None:
    made = fabricate((0, 1))
    write_report(made.study, made.workspace, tmp_path / "x")
    assert "tuned" not in (tmp_path / "x" / "report.md").read_text()
