"""A search without training: points asked and told, kills at any instant, rungs and promotions, failures, storages."""

import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import Bench

from dinov2lab.lab import desk, proposals
from dinov2lab.lab.desk import Desk
from dinov2lab.lab.gaussian import Gaussian
from dinov2lab.lab.proposals import StorageError, grid_points
from dinov2lab.lab.rungs import bracket, promotable, stops_at
from dinov2lab.spec.points import runs_at
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, read_trials

ASHA = {"kind": "asha", "first": 3200, "reduction": 2}
Rows = list[dict[str, Any]]


def work(search: SearchSpec, place: Workspace, bench: Bench, storage: str | None = None) -> tuple[Trial, ...]:
    gaussian = Gaussian()
    desk = Desk(search, place, bench, storage, gaussian=gaussian)
    while desk.turn():
        pass
    desk.leave()
    gaussian.dismiss()
    return read_trials(place.search(search.name))


def told(trials: tuple[Trial, ...]) -> list[dict[str, Any]]:
    """What must repeat: all but the clock."""
    return [trial.model_dump(exclude={"began", "ended"}) for trial in trials]


@pytest.mark.parametrize(("kind", "count"), [("tpe", 9), ("random", 9), ("grid", 9), ("gp", 5)])
def test_a_seed_and_one_worker_repeat_trial_by_trial(kind: str, count: int, tmp_path: Path) -> None:
    def once(name: str, seed: int) -> list[dict[str, Any]]:
        sampler = {"kind": kind, "seed": seed, "startup": 4, "points": 3}
        search = synthetic.search(sampler=sampler, budget={"trials": count})
        place = synthetic.workspace(tmp_path / name)
        return told(work(search, place, Bench(place)))

    first = once("a", 0)
    assert first == once("b", 0)
    assert [trial["point"] for trial in first] != [trial["point"] for trial in once("c", 1)]
    assert len({trial["runs"] for trial in first}) == count


class Killed(BaseException):
    """As SIGKILL: nothing is cleaned up after it but what the system does itself."""


def test_killed_at_any_write_the_search_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies at one write to the storage after the other, before or after it; a new one goes on."""
    search = synthetic.search(budget={"trials": 7}, pruner=ASHA, sampler={"startup": 3}, enqueue=["base"])
    place = synthetic.workspace(tmp_path / "whole")
    whole = told(work(search, place, Bench(place, paced=True)))
    append = proposals.Journal.append_logs
    writes, deadly = 0, 0

    def dies(self: Any, logs: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == deadly:
            if deadly % 2:
                append(self, logs)
            raise Killed
        append(self, logs)

    monkeypatch.setattr(proposals.Journal, "append_logs", dies)
    place, deaths = synthetic.workspace(tmp_path / "killed"), 0
    dealt = random.Random(7)
    while True:
        writes, deadly = 0, dealt.randint(1, 9)
        desk: Desk | None = None
        try:
            desk = Desk(search, place, Bench(place, paced=True))
            while desk.turn():
                pass
            break
        except Killed:
            deaths += 1
            if desk:
                desk.leave()  # as the system drops a dead process's locks
    assert deaths > 10
    assert told(read_trials(place.search("s"))) == whole


def test_two_processes_share_a_search_and_double_nothing(tmp_path: Path) -> None:
    search, place = synthetic.search(budget={"trials": 20}, pruner=ASHA), synthetic.workspace(tmp_path)
    benches = [Bench(place, jobs, paced=True) for jobs in (1, 3)]
    desks = [Desk(search, place, bench) for bench in benches]
    dealt, going = random.Random(1), True
    while going:
        going = dealt.choice(desks).turn()
    trials = read_trials(place.search("s"))
    assert Counter(trial.origin for trial in trials)["sampled"] == 20
    assert all(trial.state in ("complete", "pruned") for trial in trials)
    started = Counter(run for bench in benches for run in bench.started)
    promoted = Counter(run for trial in trials if trial.origin == "promoted" for run in trial.runs)
    assert started == Counter({run for trial in trials for run in trial.runs}) + promoted
    looks = sum(len(place.run(run).rows()) for run in started)
    assert sum(bench.steps for bench in benches) == looks  # no look was computed twice
    assert all(bench.started for bench in benches)


def test_what_a_dead_process_worked_on_is_taken_up(tmp_path: Path) -> None:
    search, place = synthetic.search(budget={"trials": 4}), synthetic.workspace(tmp_path)
    dead = Desk(search, place, Bench(place, 2, paced=True))
    dead.turn()
    living = Desk(search, place, bench := Bench(place, 4, paced=True))
    living.turn()
    assert len(bench.started) == 2  # the others are at work elsewhere
    dead.leave()
    while living.turn():
        pass
    assert [trial.state for trial in read_trials(place.search("s"))] == ["complete"] * 4
    assert len(set(bench.started)) == 4


def test_a_promotion_goes_on_with_the_run_of_a_stopped_trial(tmp_path: Path) -> None:
    search = synthetic.search(budget={"trials": 30}, pruner=ASHA, sampler={"kind": "random"})
    place = synthetic.workspace(tmp_path)
    trials = work(search, place, bench := Bench(place, paced=True))
    promoted = [trial for trial in trials if trial.origin == "promoted"]
    assert promoted
    for trial in promoted:
        assert trial.parent is not None
        parent = trials[trial.parent]
        assert (parent.state, parent.runs, parent.point) == ("pruned", trial.runs, trial.point)
        assert trial.looks[: len(parent.looks)] == parent.looks
        assert trial.images > parent.images
    assert bench.steps == sum(len(place.run(run).rows()) for run in {trial.runs[0] for trial in trials})
    stopped = [trial for trial in trials if trial.state == "pruned"]
    assert {trial.reason for trial in stopped} <= {
        "stopped at the rung of 3200 images",
        "stopped at the rung of 6400 images",
    }
    whole = 30 * 12800
    assert sum({trial.runs: trial.images for trial in trials}.values()) < 0.75 * whole


def test_no_chooser_sees_test(tmp_path: Path) -> None:
    """Whatever test says, the search is the same; with another val it is not."""

    def once(name: str, metric: str, value: float) -> list[dict[str, Any]]:
        place = synthetic.workspace(tmp_path / name)

        def rows(spec: RunSpec) -> Rows:
            flip = value * (-1) ** round(1e6 * spec.optim.lr)
            looks = [
                {"step": at // 32, "images": at, "time": 1, "val/knn": known} for at, known in synthetic.curve(spec, 0)
            ]
            return [row | {metric: flip + row.get(metric, 0)} for row in looks]

        search = synthetic.search(pruner=ASHA, sampler={"startup": 3})
        return told(work(search, place, Bench(place, paced=True, rows=rows)))

    assert once("a", "test/knn", 0.0) == once("b", "test/knn", 5.0) == once("c", "test/linear", -3.0)
    assert once("a2", "val/knn", 0.0) != once("d", "val/knn", 5.0)


def test_what_fails_or_collapses_is_told_as_a_failure_with_its_reason(tmp_path: Path) -> None:
    def rows(spec: RunSpec) -> Rows:
        std = 0.001 if spec.optim.lr > 1e-2 else 0.9
        value = float("nan") if spec.optim.lr < 1e-4 else 0.5
        return [
            {"step": at // 32, "images": at, "time": 1, "val/knn": value, "health/feature_std": std}
            for at in (3200, 12800)
        ]

    def fails(spec: RunSpec) -> str | None:
        return "the loss is NaN at step 70" if 1e-4 < spec.optim.lr < 1e-3 else None

    search, place = synthetic.search(budget={"trials": 30}, pruner=ASHA), synthetic.workspace(tmp_path)
    trials = work(search, place, bench := Bench(place, paced=True, rows=rows, fails=fails))
    reasons = Counter(trial.reason for trial in trials if trial.state == "failed")
    assert set(reasons) == {
        "the loss is NaN at step 70",
        "val/knn is no number",
        "collapsed: the features' standard deviation is 0.001 at 3200 images",
    }
    dead = [trial for trial in trials if "collapsed" in str(trial.reason)]
    assert all(len(place.run(trial.runs[0]).rows()) == 1 for trial in dead)  # stopped at once
    assert len(bench.started) == len(trials) == 30


def test_a_run_that_has_a_result_is_a_point_already_paid_for(tmp_path: Path) -> None:
    search, place = (
        synthetic.search(pruner=ASHA, enqueue=[{"optim.lr": 1e-4, "objective.teacher.temperature": 0.05}]),
        (synthetic.workspace(tmp_path)),
    )
    (planned,) = runs_at(search, {"optim.lr": 1e-4, "objective.teacher.temperature": 0.05})
    Bench(place).start(planned)
    trials = work(search, place, bench := Bench(place, paced=True))
    assert (trials[0].state, trials[0].runs, trials[0].origin) == ("complete", (planned.run,), "enqueued")
    assert planned.run not in bench.started


def test_a_failure_from_before_is_tried_again(tmp_path: Path) -> None:
    search, place = synthetic.search(enqueue=["base"], budget={"trials": 1}), synthetic.workspace(tmp_path)
    (planned,) = runs_at(search, {})
    Bench(place, fails=lambda _: "out of memory").start(planned)
    assert [trial.state for trial in work(search, place, Bench(place))] == ["complete"]


@pytest.mark.parametrize(
    ("budget", "points"), [({"trials": 5}, 5), ({"images": 60_000}, 5), ({"hours": 0.1, "trials": 50}, 3)]
)
def test_the_budget_ends_it(budget: dict[str, Any], points: int, tmp_path: Path) -> None:
    """A synthetic run is of 12,800 images and 128 seconds. What has begun is ended."""
    place = synthetic.workspace(tmp_path)
    assert len(work(synthetic.search(budget=budget), place, Bench(place))) == points


def test_a_larger_budget_goes_on_with_the_same_search(tmp_path: Path) -> None:
    place = synthetic.workspace(tmp_path)
    first = work(synthetic.search(budget={"trials": 4}), place, Bench(place))
    more = work(synthetic.search(budget={"trials": 6}), place, bench := Bench(place))
    assert told(more)[:4] == told(first)
    assert (len(more), len(bench.started)) == (6, 2)


def test_a_trial_is_the_mean_over_its_seeds_and_wilcoxon_stops_it(tmp_path: Path) -> None:
    seeds = list(range(8))
    place, search = synthetic.workspace(tmp_path / "a"), synthetic.search(seeds=seeds, budget={"trials": 6})
    for trial in work(search, place, Bench(place)):
        values = [value for _, value in trial.looks]
        assert len(values) == len(trial.runs) == 8
        assert trial.values == (pytest.approx(sum(values) / 8),)
    search = synthetic.search(seeds=seeds, pruner={"kind": "wilcoxon"}, budget={"trials": 12})
    place = synthetic.workspace(tmp_path / "b")
    stopped = [trial for trial in work(search, place, Bench(place)) if trial.state == "pruned"]
    assert stopped
    assert all(len(trial.looks) < 8 and "stopped after" in str(trial.reason) for trial in stopped)


def test_several_metrics_are_a_front(tmp_path: Path) -> None:
    metrics = {"val/knn": "maximize", "cost/flops": "minimize"}
    space = {"optim.lr": synthetic.SPACE["optim.lr"], "optim.steps": {"integers": [50, 400]}}
    search, place = synthetic.search(metrics=metrics, space=space), synthetic.workspace(tmp_path)
    trials = work(search, place, Bench(place))
    assert all(trial.values and len(trial.values) == 2 and trial.values[1] > 1e6 for trial in trials)


def test_conditional_fields_are_sampled_where_they_are_there(tmp_path: Path) -> None:
    centre = "objective.teacher.centre_momentum"
    space: dict[str, Any] = {
        "objective.teacher.centering": {"choices": ["sinkhorn", "ema"]},
        centre: {"linear": [0.8, 1.0], "when": {"objective.teacher.centering": "ema"}},
        "objective.ibot.masks.ratio": {"choices": [[0.1, 0.5], [0.3, 0.3]]},
    }
    search, place = synthetic.search(space=space, budget={"trials": 16}), synthetic.workspace(tmp_path)
    for trial in work(search, place, Bench(place)):
        assert (centre in trial.point) == (trial.point["objective.teacher.centering"] == "ema")
        assert trial.point["objective.ibot.masks.ratio"] in ([0.1, 0.5], [0.3, 0.3])
        assert trial.state == "complete"


def test_a_grid_visits_each_point_once(tmp_path: Path) -> None:
    search, place = (
        synthetic.search(sampler={"kind": "grid", "points": 4}, budget={"trials": 99}),
        (synthetic.workspace(tmp_path)),
    )
    trials = work(search, place, Bench(place))
    assert len({tuple(trial.point.values()) for trial in trials}) == len(trials) == 16
    assert grid_points(search.space["optim.lr"], 5) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


class TestRungs:
    def test_are_counted_in_images_before_the_end(self) -> None:
        assert synthetic.search(pruner=ASHA).levels == (3200, 6400)
        assert synthetic.search(pruner={"kind": "hyperband"}).levels == (1600, 4800)
        assert synthetic.search().levels == ()

    @settings(max_examples=60, deadline=None)
    @given(
        curves=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=14),
        reduction=st.integers(2, 4),
        maximise=st.booleans(),
    )
    def test_stop_what_optunas_successive_halving_stops(
        self, curves: list[list[int]], reduction: int, maximise: bool
    ) -> None:
        """Trial after trial, without promotions, the rule is that of an independent implementation."""
        direction = "maximize" if maximise else "minimize"
        pruner = {"kind": "asha", "first": 1000, "reduction": reduction}
        search = synthetic.search(pruner=pruner, metrics={"val/knn": direction})
        levels = search.levels
        study = optuna.create_study(
            direction=direction, pruner=optuna.pruners.SuccessiveHalvingPruner(1000, reduction, 0)
        )
        trials = dict[int, Trial]()
        for number, values in enumerate(curves):
            theirs = study.ask()
            for level, value in zip(levels, values, strict=False):
                theirs.report(value, level)
                looks = (*(trials[number].looks if number in trials else ()), (level, float(value)))
                trials[number] = Trial(number=number, state="running", point={}, runs=(str(number),), looks=looks)
                ours = stops_at(trials[number], trials, search)
                assert (ours is not None) == theirs.should_prune()
                if ours is not None:
                    assert ours == level
                    trials[number] = trials[number].model_copy(update={"state": "pruned"})
                    break
            study.tell(theirs, state=optuna.trial.TrialState.PRUNED)

    def test_promote_what_has_come_to_be_among_the_best(self) -> None:
        search = synthetic.search(pruner=ASHA)

        def trial(number: int, state: Any, value: float, parent: int | None = None) -> Trial:
            run = (str(number if parent is None else parent),)
            return Trial(number=number, state=state, point={}, runs=run, looks=((3200, value),), parent=parent)

        trials = {0: trial(0, "complete", 0.9), 1: trial(1, "pruned", 0.8), 2: trial(2, "pruned", 0.1)}
        assert promotable(trials, search) is None  # one in two of three: the best alone
        trials |= {3: trial(3, "pruned", 0.2)}
        found = promotable(trials, search)
        assert found
        assert found.number == 1
        assert promotable(trials | {4: trial(4, "running", 0.8, 1)}, search) is None

    def test_hyperband_begins_later_in_other_brackets(self) -> None:
        search = synthetic.search(pruner={"kind": "hyperband", "first": 1600, "reduction": 2})
        found = Counter(bracket(search, number) for number in range(600))
        assert set(found) == {0, 1, 2}
        assert found[0] > found[2]


class TestStorage:
    def test_an_rdb_is_as_good_as_the_journal(self, tmp_path: Path) -> None:
        search, urls = synthetic.search(pruner=ASHA), [None, f"sqlite:///{tmp_path}/x.db"]
        places = [synthetic.workspace(tmp_path / str(index)) for index in range(2)]
        one, two = (
            told(work(search, place, Bench(place, paced=True), url)) for place, url in zip(places, urls, strict=True)
        )
        assert one == two

    def test_a_line_cut_short_is_dropped(self, tmp_path: Path) -> None:
        place = synthetic.workspace(tmp_path)
        work(synthetic.search(budget={"trials": 2}), place, Bench(place))
        with (place.search("s") / "journal.log").open("a") as file:
            file.write('{"op_code":4,"worker_id":"x","stu')
        assert len(work(synthetic.search(budget={"trials": 4}), place, Bench(place))) == 4

    def test_another_search_is_one_line(self, tmp_path: Path) -> None:
        place = synthetic.workspace(tmp_path)
        work(synthetic.search(budget={"trials": 2}), place, Bench(place))
        with pytest.raises(StorageError, match="holds another search by that name") as error:
            Desk(synthetic.search(seeds=[5]), place, Bench(place))
        assert "\n" not in str(error.value)
        with pytest.raises(StorageError, match="lives in another storage \\(journal\\)"):
            Desk(synthetic.search(), place, Bench(place), f"sqlite:///{tmp_path}/x.db")

    @pytest.mark.parametrize(
        "url",
        ["postgresql://me:secret@127.0.0.1:1/x", "sqlite:////no/such/folder/x.db", "nonsense", "mysql://me:secret@h/x"],
    )
    def test_what_cannot_be_opened_is_one_line_without_a_password(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="the storage of search s") as error:
            Desk(synthetic.search(), synthetic.workspace(tmp_path), Bench(synthetic.workspace(tmp_path)), url)
        assert "\n" not in str(error.value)
        assert "secret" not in str(error.value)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("nonsense", "nonsense"),
            ("me:secret@h/x", "h/x"),
            ("postgresql://me:se://cr@et@h:1/x", "postgresql://h:1/x"),
            ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ],
    )
    def test_an_address_is_shown_without_user_and_password(self, url: str, shown: str) -> None:
        assert proposals.public(url) == shown

    def test_a_damaged_journal_is_one_line(self, tmp_path: Path) -> None:
        place = synthetic.workspace(tmp_path)
        work(synthetic.search(budget={"trials": 1}), place, Bench(place))
        (place.search("s") / "journal.log").write_text("no json\n{}\n")
        with pytest.raises(StorageError, match=r"journal.log is damaged; move it away") as error:
            Desk(synthetic.search(), place, Bench(place))
        assert "\n" not in str(error.value)
        (place.search("s") / "journal.log").unlink()
        assert len(work(synthetic.search(budget={"trials": 1}), place, bench := Bench(place))) == 1
        assert not bench.started  # its run had its result

    def test_a_locked_one_is_one_line_and_nothing_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        search, place = synthetic.search(budget={"trials": 1}), synthetic.workspace(tmp_path)
        url = f"sqlite:///{tmp_path}/x.db?timeout=0.1"
        with closing(sqlite3.connect(tmp_path / "x.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StorageError, match=r"the storage of search s, sqlite:.*: database is locked") as error:
                Desk(search, place, Bench(place), url)
        assert "\n" not in str(error.value)
        monkeypatch.setattr(desk, "LONG", 0.1)
        with (
            atomic.locked(place.search("s") / "lock"),
            pytest.raises(StorageError, match="search s is locked by another process"),
        ):
            Desk(search, place, Bench(place))
        assert [file.name for file in place.search("s").iterdir()] == ["lock"]
        assert len(work(search, place, Bench(place), url)) == 1
