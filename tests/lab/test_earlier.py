"""Warm starts and confirmations: which earlier runs are points, and which study a winner has to pass."""

from pathlib import Path
from typing import Any

import pytest
import synthetic
from synthetic import Bench

from dinov2lab.lab.desk import Desk
from dinov2lab.report.search import write_search_report
from dinov2lab.spec.points import base_point, confirmation, point_of, runs_at, spec_at
from dinov2lab.spec.study import Arm, Decide, Study, expand
from dinov2lab.store import atomic, studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, read_trials

LR, TEMPERATURE = "optim.lr", "objective.teacher.temperature"


def work(search: Any, place: Workspace, bench: Bench) -> tuple[Trial, ...]:
    desk = Desk(search, place, bench)
    while desk.turn():
        pass
    desk.leave()
    return read_trials(place.search(search.name))


class Writing(Bench):
    """As a worker does, it leaves the run's spec."""

    def start(self, planned: Any) -> None:
        atomic.write_text(self._workspace.run(planned.run).spec, planned.spec.model_dump_json())
        super().start(planned)


class TestWarmStarts:
    def test_an_earlier_searchs_runs_are_points_already_paid_for(self, tmp_path: Path) -> None:
        place = synthetic.workspace(tmp_path)
        first = work(synthetic.search(name="first", budget={"trials": 8}), place, Writing(place))
        narrow = {LR: {"log": [1e-4, 1e-2]}, TEMPERATURE: synthetic.SPACE[TEMPERATURE]}
        search = synthetic.search(name="second", space=narrow, earlier=["first"], budget={"trials": 3})
        trials = work(search, place, bench := Writing(place))
        inside = [trial for trial in first if 1e-4 <= trial.point[LR] <= 1e-2]
        taken = [trial for trial in trials if trial.origin == "earlier"]
        assert 0 < len(inside) < len(first)
        assert [(trial.point, trial.values, trial.runs) for trial in taken] == [
            (trial.point, trial.values, trial.runs) for trial in inside
        ]
        assert {trial.source for trial in taken} == {"first"}
        assert len(bench.started) == 3  # the budget is for new points
        assert work(search, place, Writing(place)) == trials  # and they are added once

    def test_a_smaller_models_best_points_are_tried_first(self, tmp_path: Path) -> None:
        place = synthetic.workspace(tmp_path)
        small = synthetic.BASE | {"model": {"size": "pico"}}
        first = work(synthetic.search(name="first", base=small, budget={"trials": 8}), place, Writing(place))
        narrow = {LR: {"log": [1e-4, 1e-2]}, TEMPERATURE: synthetic.SPACE[TEMPERATURE]}
        search = synthetic.search(
            name="second", space=narrow, transfer=["first"], enqueue=["base"], budget={"trials": 6}
        )
        trials = work(search, place, bench := Writing(place))
        best = sorted(first, key=lambda trial: trial.values or (), reverse=True)[:3]
        assert [trial.origin for trial in trials] == ["enqueued", *["transferred"] * 3, *["sampled"] * 2]
        for trial, of in zip(trials[1:4], best, strict=True):
            assert trial.source == "first"
            assert trial.point[TEMPERATURE] == of.point[TEMPERATURE]
            assert (trial.point[LR] == of.point[LR]) == (1e-4 <= of.point[LR] <= 1e-2)
            assert trial.runs != of.runs  # a guess, tried anew
        assert len(bench.started) == 6  # they count against the budget
        more = synthetic.search(name="first", base=small, budget={"trials": 12})
        work(more, place, Writing(place))
        assert work(search, place, Writing(place)) == trials  # taken over once
        report = write_search_report(search, place, tmp_path / "reports" / "second")
        assert "3 points to begin with are the best of first" in report.read_text()

    def test_what_cannot_be_handed_on_is_one_line(self, tmp_path: Path) -> None:
        place = synthetic.workspace(tmp_path)
        work(synthetic.search(name="first", budget={"trials": 2}), place, Writing(place))
        steps = {"optim.steps": {"integers": [50, 400]}}
        for own, says in (
            ({"transfer": ["frist"]}, "no search frist has run in .*did you mean first?"),
            ({"transfer": ["first"], "metrics": {"health/rankme": "maximize"}}, "is after val/knn, not health/rankme"),
            ({"transfer": ["first"], "space": steps}, "none of the best trials of first has a value"),
        ):
            with pytest.raises(ValueError, match=says) as error:
                Desk(synthetic.search(**own), place, Writing(place))
            assert "\n" not in str(error.value)
        assert not (place.search("s") / "journal.log").exists()

    def test_a_studys_runs_are_one_point_for_each_arm_and_others_are_left(self, tmp_path: Path) -> None:
        place, search = synthetic.workspace(tmp_path), synthetic.search(earlier=["old"], budget={"trials": 1})
        specs = {
            "base": search.base,
            "warm": spec_at(search, {TEMPERATURE: 0.05}),
            "elsewhere": search.base.model_copy(update={"optim": search.base.optim.model_copy(update={"clip": 1.0})}),
        }
        study = Study(
            name="old",
            question="?",
            factor=("optim", "objective"),
            baseline="base",
            arms=tuple(Arm(name=name, spec=spec) for name, spec in specs.items()),
            seeds=(4, 5),
            metrics=("val/knn",),
            decide=Decide(metric="val/knn"),
        )
        studies.record(study, place)
        for cell in expand(study):
            Writing(place).start(cell)
        desk = Desk(search, place, Writing(place))
        assert [tuple(each) for each in desk.earlier] == [("old", 6, 4)]
        trials = read_trials(place.search("s"))
        assert [trial.point[TEMPERATURE] for trial in trials] == [search.base.objective.teacher.temperature, 0.05]
        assert all(len(trial.runs) == 2 for trial in trials)

    def test_a_name_that_nothing_ran_by_is_said(self, tmp_path: Path) -> None:
        place = synthetic.workspace(tmp_path)
        with pytest.raises(ValueError, match="earlier: no search and no study by the name of nought has run"):
            Desk(synthetic.search(earlier=["nought"]), place, Bench(place))

    def test_a_run_is_a_point_where_it_differs_in_the_space_and_its_seed_alone(self) -> None:
        search = synthetic.search()
        point = base_point(search) | {LR: 3e-3}
        (planned,) = runs_at(search, point)
        assert point_of(search, planned.spec.model_copy(update={"seed": 9})) == point
        assert point_of(search, planned.spec.model_copy(update={"replicate": 1})) is None
        assert point_of(search, spec_at(search, {LR: 1.0})) is None  # outside


class TestConfirmation:
    def test_trains_the_best_and_the_base_with_fresh_paired_seeds_and_decides_on_test(self) -> None:
        search = synthetic.search(seeds=[0, 1001])
        study = confirmation(search, {"trial_3": {LR: 3e-3}, "trial_5": {LR: 5e-3}, "trial_0": {}}, 4)
        assert [arm.name for arm in study.arms] == ["base", "trial_3", "trial_5"]  # the base itself is no rival of it
        assert study.seeds == (1000, 1002, 1003, 1004)
        assert (study.decide.metric, study.metrics) == ("test/knn", ("test/knn", "val/knn"))
        runs = {each.run for point in ({}, {LR: 3e-3}) for each in runs_at(search, point)}
        assert not runs & {cell.run for cell in expand(study)}

    @pytest.mark.parametrize("equal", ["images", "flops"])
    def test_holds_equal_what_the_search_held(self, equal: str) -> None:
        space = {"optim.batch": {"choices": [16, 32, 64]}, "views.local_crops": {"integers": [0, 8]}}
        search = synthetic.search(equal=equal, space=space)
        points = {"trial_1": {"optim.batch": 64}} | ({"trial_2": {"views.local_crops": 3}} if equal == "flops" else {})
        for cell in expand(confirmation(search, points, 2)):
            if cell.arm != "base":
                assert cell.spec.model_copy(update={"seed": 0}) == spec_at(search, points[cell.arm])

    def test_what_cannot_be_confirmed_is_said(self) -> None:
        with pytest.raises(ValueError, match="the base is the best; a larger --confirm"):
            confirmation(synthetic.search(), {"trial_0": {}}, 3)
        with pytest.raises(ValueError, match="after no accuracy"):
            confirmation(synthetic.search(metrics={"health/rankme": "maximize"}), {"trial_1": {LR: 2e-3}}, 3)
