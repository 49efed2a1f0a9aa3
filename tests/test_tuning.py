"""A study whose arms are tuned: searches with runs that are a formula, and the commands around them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fabricated
import pytest
import synthetic

from dinov2lab import cluster, publisher, searching, tuning
from dinov2lab.cli import main
from dinov2lab.data.source import Roots, open_source
from dinov2lab.lab import opening, search_mirror, slurm
from dinov2lab.lab import search as lab_search
from dinov2lab.spec.load import load_study
from dinov2lab.spec.points import runs_at
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Study, expand
from dinov2lab.spec.tuning import searches
from dinov2lab.store import atomic, studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.submission import Jobs, new_launch
from dinov2lab.store.trials import best_trials, read_trials, stored_search

BASE = """\
data: {train: "folder:images"}
optim: {steps: 400, batch: 32, lr: 1.0e-3, warmup_steps: 0}
objective: {koleo: {group: 16}}
evaluation: {memory: "folder:images", test: "folder:images", every: 1600}
"""
SEARCH = """\
base: small.yaml
space: {optim.lr: {log: [1.0e-5, 1.0e-1]}}
metrics: {val/knn: maximize}
budget: {trials: 9}
sampler: random
pruner: {kind: asha, first: 3200, reduction: 2}
"""
STUDY = """\
question: Does a warmer teacher help?
base: ../experiments/small.yaml
factor: objective.teacher.temperature
baseline: cold
seeds: [0, 1]
metrics: [test/knn]
decide: {metric: test/knn}
arms: {cold: {objective.teacher.temperature: 0.02}, warm: {objective.teacher.temperature: 0.08}}
tune: {per_arm: ../experiments/rates.yaml, budget: {trials: 6}}
"""


class Here:
    """Publishes in this process, where there is no MLflow: a process for each search takes its time."""

    def __init__(self, kind: str, name: str, workspace: Workspace, reports: Path, asked_by: str | None = None) -> None:
        self._about = (name, workspace, reports, asked_by)

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, _: str) -> bool:
        return False

    def finish(self) -> str:
        name, workspace, reports, asked_by = self._about
        search = stored_search(name, workspace)
        return publisher.publish_search(search, workspace, reports, asked_by, report=True) or ""


def opened(needed: Iterable[str], roots: Roots) -> None:
    for uri in needed:
        open_source(uri, roots)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_mirror, "try_sync", lambda *_: None)  # tested in test_search_mirror.py
    monkeypatch.setattr(searching, "Publisher", Here)
    monkeypatch.setattr(opening, "refuse_absent", opened)
    monkeypatch.setattr(lab_search, "POLL", 0.0)
    for folder in ("experiments", "ablations", "images"):
        Path(folder).mkdir()
    Path("images/one.png").write_bytes(fabricated.PNG)
    Path("experiments/small.yaml").write_text(BASE)
    Path("experiments/rates.yaml").write_text(SEARCH)
    Path("ablations/warmth.yaml").write_text(STUDY)
    return Workspace(Path("lab"))


def tuned(lab: Workspace, bench: type[synthetic.Bench] = synthetic.Bench, jobs: int = 1, **how: Any) -> Study:
    return tuning.tune(
        studies.as_it_stands(load_study("ablations/warmth.yaml"), lab),
        lab,
        Roots(Path(), lab.cache),
        Path("reports"),
        lambda *_: bench(lab, jobs, paced=True, **how),
        jobs,
    )


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def calling(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        said = capfd.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return calling


def test_each_arm_runs_at_its_best_point_and_nothing_that_chose_is_evidence(lab: Workspace) -> None:
    before = load_study("ablations/warmth.yaml")
    study = tuned(lab)
    assert study.tune
    assert set(study.tune.found) == {"cold", "warm"}
    chosen, tried = dict[str, float](), list[list[dict[str, Any]]]()
    for (arm, _), search in searches(before).items():
        trials = read_trials(lab.search(search.name))
        tried.append([trial.point for trial in trials if trial.origin == "sampled"])
        assert all(trial.runs == tuple(each.run for each in runs_at(search, trial.point)) for trial in trials)
        assert not set(search.seeds) & set(study.seeds)
        chosen[arm] = best_trials(search, trials)[0].point["optim.lr"]
        found = study.tune.found[arm]
        assert found.images == sum({trial.runs: trial.images for trial in trials}.values())
        assert (found.points, found.value) == (6, max(trial.values[0] for trial in trials if trial.state == "complete"))
    assert tried[0] == tried[1]  # random: the luck of where it looks is the same for all arms
    assert len(tried[0]) == 6
    assert {(cell.arm, cell.spec.optim.lr) for cell in expand(study)} == set(chosen.items())
    assert not [cell for cell in expand(study) if lab.run(cell.run).path.exists()]
    assert (studies.as_it_stands(before, lab), studies.as_it_stands(before, Workspace(Path("other")))) == (
        study,
        before,
    )


def test_tuned_for_each_seed_it_runs_each_at_the_best_point_of_its_own_search(lab: Workspace) -> None:
    Path("ablations/warmth.yaml").write_text(STUDY.replace("budget: {trials: 6}", "budget: {trials: 4}, per: seed"))
    study = tuned(lab)
    before, best, tried = load_study("ablations/warmth.yaml"), dict[Any, float](), dict[Any, Any]()
    for place, search in searches(before).items():
        trials = read_trials(lab.search(search.name))
        best[place] = best_trials(search, trials)[0].point["optim.lr"]
        tried[place] = [trial.point for trial in trials if trial.origin == "sampled"]
    assert {(cell.arm, cell.seed): cell.spec.optim.lr for cell in expand(study)} == best
    assert len(set(best.values())) > 2
    cold, warm = ([tried[arm, seed] for seed in (0, 1)] for arm in ("cold", "warm"))
    assert cold == warm  # random: the same luck for the arms of a seed, and another one for each seed
    assert cold[0] != cold[1]
    assert studies.as_it_stands(before, lab) == study
    more = study.with_more_seeds(1)
    whole = tuning.tune(more, lab, Roots(Path(), lab.cache), Path("reports"), lambda *_: synthetic.Bench(lab), 1)
    assert expand(whole)[:4] == expand(study)
    assert len(expand(whole)) == 6
    studies.record(whole, lab)
    assert studies.as_it_stands(before, lab) == whole


@pytest.mark.parametrize(("jobs", "at_once"), [(1, 1), (3, 1), (8, 2)])
def test_searches_go_side_by_side_with_as_many_runs_each(lab: Workspace, jobs: int, at_once: int) -> None:
    """One run at a time in each: what it finds does not depend on how many others go on."""
    Path("ablations/warmth.yaml").write_text(STUDY.replace("budget: {trials: 6}", "budget: {trials: 6}, per: seed"))
    most, alone = dict[str, int](), Workspace(Path("alone"))

    class Watching(synthetic.Bench):
        def tend(self) -> None:
            there = {file.parent.name: read_trials(file.parent) for file in lab.searches.glob("*/trials.json")}
            running = {name: sum(trial.state == "running" for trial in trials) for name, trials in there.items()}
            most.update({name: max(count, most.get(name, 0)) for name, count in running.items()})
            most["all"] = max(sum(running.values()), most.get("all", 0))
            super().tend()

    study = tuned(lab, bench=Watching, jobs=jobs)
    assert most.pop("all") == min(jobs, 4 * at_once)
    assert set(most.values()) == {at_once}
    if at_once == 1:
        assert study == tuned(alone)
    assert {file.name for file in Path("reports").iterdir()} == {each.name for each in searches(study).values()}


def test_on_a_cluster_the_runs_of_the_searches_are_jobs_and_then_those_of_the_study(
    lab: Workspace, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    benches, launched = list[Any](), list[Study]()

    def bench(
        name: str, base: RunSpec, workspace: Workspace, roots: Roots, profile: Any, jobs: int, queue: slurm.Queue
    ) -> synthetic.Bench:
        benches.append((name, base.objective.teacher.temperature, profile.hours, jobs))
        return synthetic.Bench(workspace, jobs)

    def launch(order: Any, *, rerun: bool) -> cluster.Launched:
        launched.append(order.study)
        return cluster.Launched(4, None, ["queued"])

    monkeypatch.setattr(cluster, "SlurmBench", bench)
    monkeypatch.setattr(cluster, "launch", launch)
    words = ("run", "warmth", "--launcher", "slurm", "--slurm", "hours=2.0", "--jobs", "3")
    assert "warmth.cold" in call(*words, "--dry-run")[1]
    assert not benches
    assert call(*words)[0] == 0
    assert benches == [("warmth.cold", 0.02, 2.0, 3), ("warmth.warm", 0.08, 2.0, 3)]
    assert launched == [studies.as_it_stands(load_study("ablations/warmth.yaml"), lab)]
    assert not launched[0].untuned
    again = json.loads(call(*words, "--json")[1])  # the same command, whose --jobs has nothing left to do
    assert again == {"study": "warmth", "submitted": 4, "jobs": [], "before": {"queued": 1}}
    assert len(benches) == 2


def test_a_tuning_that_was_stopped_goes_on(lab: Workspace, tmp_path: Path) -> None:
    whole = Workspace(tmp_path / "whole")
    undisturbed = tuned(whole)

    class Stop(Exception):
        pass

    class Stopping(synthetic.Bench):
        def tend(self) -> None:
            if self.steps > 20:
                raise Stop
            super().tend()

    stops = 0
    while True:
        try:
            done = tuned(lab, bench=Stopping)
            break
        except Stop:
            stops += 1
    assert stops > 1
    assert done == undisturbed


def stopped(lab: Workspace) -> None:
    """As a controller that is killed while a trial of the second arm runs."""

    class Stop(Exception):
        pass

    class Stopping(synthetic.Bench):
        def tend(self) -> None:
            if self.started and read_trials(lab.search("warmth.warm")):
                raise Stop
            super().tend()

    with pytest.raises(Stop):
        tuned(lab, bench=Stopping)


def test_status_shows_how_far_the_searches_are_and_which_runs_go_on(
    lab: Workspace, call: Callable[..., tuple[int, str, str]]
) -> None:
    assert "warmth.cold" in call("status", "warmth")[1]
    stopped(lab)
    rows = json.loads(call("status", "warmth", "--json")[1])["tune"]
    assert [row["ended"] > 0 for row in rows] == [True, False]
    ((trial, *_),) = (row["running"] for row in rows if row["running"])
    (run,) = next(each for each in read_trials(lab.search("warmth.warm")) if each.state == "running").runs
    assert trial == {"trial": 0, "run": run, "state": "waiting", "note": ""}
    code, said, _ = call("status", "warmth")
    assert (code, f"warmth.warm, trial 0: run {run} waiting" in said) == (0, True)
    code, said, _ = call("status", "warmth.warm")
    assert (code, said.splitlines()[1:]) == (0, ["1 trial: 1 running", f"trial 0: run {run} waiting"])
    for name in ("rates", "experiments/rates.yaml"):  # which has not begun
        assert call("status", name) == (0, "rates\n0 trials\n", "")
    Path("ablations/rates.yaml").write_text(STUDY)
    assert "rates.cold" in call("status", "rates")[1]  # by that name a study comes first
    told = json.loads(call("status", "warmth.cold", "--json")[1])
    assert (told["search"], len(told["trials"]) >= 6, told["running"]) == ("warmth.cold", True, [])


def test_cancel_ends_the_jobs_of_the_searches_too(
    lab: Workspace, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, cancelled = dict[str, slurm.Queued](), list[str]()
    for job, name in (("1", "warmth"), ("2", "warmth.cold"), ("3", "warmth.warm"), ("4", "warmth.hot"), ("5", "other")):
        sent = new_launch(lab, name)
        jobs = Jobs(study=name, stages=None, arrays=(job,), report=None)
        atomic.write_text(sent.record, jobs.model_dump_json())
        queue[job] = slurm.Queued("RUNNING", "", sent.name)
    monkeypatch.setattr(slurm, "queue", lambda: queue)
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)
    assert json.loads(call("cancel", "warmth", "--json")[1]) == {"name": "warmth", "cancelled": ["1", "2", "3"]}
    assert sorted(cancelled) == ["1", "2", "3"]
    assert json.loads(call("cancel", "rates", "--json")[1]) == {"name": "rates", "cancelled": []}


def test_the_commands_say_how_far_it_is(lab: Workspace, call: Callable[..., tuple[int, str, str]]) -> None:
    planned = json.loads(call("run", "warmth", "--dry-run", "--json")[1])["tune"]
    assert [(row["arm"], row["ended"], row["images"]) for row in planned] == [("cold", 0, 76800), ("warm", 0, 76800)]
    assert "warmth.cold" in call("run", "warmth", "--dry-run")[1]
    for words in (("report", "warmth"), ("run", "warmth", "--more-seeds", "1")):
        code, _, said = call(*words)
        assert (code, said.count("\n")) == (2, 1)
    code, _, said = call("run", "warmth", "--nproc", "2", "--device", "cpu")
    assert (code, said.count("\n")) == (2, 1)
    listed = json.loads(call("list", "--json")[1])
    assert next(row for row in listed if row["name"] == "warmth")["done"] == 0
    study = tuned(lab)
    planned = json.loads(call("run", "warmth", "--dry-run", "--json")[1])
    assert {row["run"] for row in planned} == {cell.run for cell in expand(study)}
    assert call("status", "warmth")[0] == 0


def test_an_arm_of_which_nothing_runs_to_its_end_is_said(lab: Workspace) -> None:
    def fails(spec: RunSpec) -> str | None:
        return "the loss is NaN" if spec.objective.teacher.temperature > 0.05 else None

    with pytest.raises(ValueError, match=r"arm warm cannot be tuned: no trial of warmth.warm .* \(the loss is NaN\)"):
        tuned(lab, fails=fails)


def test_another_budget_tunes_on_and_another_search_is_refused(lab: Workspace) -> None:
    first = tuned(lab)
    Path("ablations/warmth.yaml").write_text(STUDY.replace("trials: 6", "trials: 8"))
    second = tuned(lab)
    assert first.tune
    assert second.tune
    assert {found.points for found in second.tune.found.values()} == {8}
    assert all(second.tune.found[arm].value >= found.value for arm, found in first.tune.found.items())
    Path("experiments/rates.yaml").write_text(SEARCH.replace("1.0e-1", "1.0e-2"))
    with pytest.raises(ValueError, match="holds another search by that name"):
        tuned(lab)


def test_a_search_that_tunes_says_that_it_is_no_evidence(lab: Workspace) -> None:
    study = tuned(lab)
    assert study.tune
    page = (Path("reports") / "warmth.cold" / "report.md").read_text()
    assert "It is no evidence: it was chosen on" in page
    assert "the study warmth asks it again on seeds that chose nothing" in page
    assert "--confirm" not in page


def test_runs_of_the_searches_are_no_leftovers(lab: Workspace) -> None:
    from dinov2lab.store.garbage import needed_runs

    study = tuned(lab)
    atomic.write_text(lab.study(study.name), studies.as_stored(study))
    trials = {
        run for search in searches(load_study("ablations/warmth.yaml")).values() for run in _runs(lab, search.name)
    }
    assert trials | {cell.run for cell in expand(study)} <= needed_runs(lab)


def _runs(lab: Workspace, name: str) -> set[str]:
    return {run for trial in read_trials(lab.search(name)) for run in trial.runs}


def test_a_source_that_only_a_choice_names_is_opened_before_anything_starts(lab: Workspace) -> None:
    choice = "{optim.lr: {log: [1.0e-5, 1.0e-1]}, data.train: {choices: [folder:images, folder:image]}}"
    Path("experiments/rates.yaml").write_text(SEARCH.replace("{optim.lr: {log: [1.0e-5, 1.0e-1]}}", choice))
    with pytest.raises(ValueError, match="folder:image: there is no"):
        tuned(lab)
    assert not lab.searches.exists()
