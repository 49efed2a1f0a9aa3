"""The report of a search: what it claims, that its recipe runs, and that nothing is left out."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import synthetic

from dinov2lab.lab.desk import Desk
from dinov2lab.lab.importances import write_importances
from dinov2lab.report.search import write_search_report
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, best_trials, read_trials

ASHA = {"kind": "asha", "first": 3200, "reduction": 2}
WAITS = {"objective.teacher.temperature_warmup_steps": {"integers": [0, 300]}}
CHOICE = {"objective.teacher.centering": {"choices": ["sinkhorn", "ema"]}}


def searched(folder: Path, **own: Any) -> tuple[SearchSpec, Workspace, tuple[Trial, ...]]:
    search, place = synthetic.search(question="Which?", **own), synthetic.workspace(folder)
    fails = lambda spec: "the loss is NaN at step 70" if spec.optim.lr > 0.03 else None
    desk = Desk(search, place, synthetic.Bench(place, paced=True, fails=fails))
    while desk.turn():
        pass
    desk.leave()
    write_importances(search, place)
    return search, place, read_trials(place.search("s"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchSpec, Workspace, tuple[Trial, ...]]:
    folder = tmp_path_factory.mktemp("done")
    space = synthetic.SPACE | WAITS | CHOICE
    search, place, trials = searched(folder, space=space, pruner=ASHA, budget={"trials": 24})
    write_search_report(search, place, folder / "reports" / "s")
    return folder / "reports" / "s", search, place, trials


def test_best_yaml_is_the_best_trials_run(done: Any) -> None:
    report, search, _, trials = done
    best = best_trials(search, trials)[0]
    assert (run_id(load_recipe(report / "best.yaml")),) == best.runs


def test_the_page_says_what_a_winner_is_worth(done: Any) -> None:
    report, search, _, trials = done
    best = best_trials(search, trials)[0]
    for name in ("index.html", "report.md"):
        text = (report / name).read_text()
        assert f"Trial {best.number} is the best of {len(trials)}" in text
        assert "Unconfirmed" in text
        assert "nothing that chooses sees test" in text


def test_every_trial_is_in_the_table_and_failures_have_their_reason(done: Any) -> None:
    report, _, _, trials = done
    with (report / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["trial"]), row["state"]) for row in rows] == [(trial.number, trial.state) for trial in trials]
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    assert (report / "index.html").read_text().count("the loss is NaN at step 70") >= len(failed)


def test_the_figures_are_drawn_and_stand_alone(done: Any) -> None:
    report, _, _, trials = done
    names = {file.stem for file in (report / "figures").glob("*.svg")}
    assert {"history", "slice-1", "slice-4", "contour", "parallel", "rungs", "importances-val-kNN"} <= names
    page = (report / "index.html").read_text()
    ended = {trial.runs for trial in trials if trial.values}
    history = page.split('id="history"')[1].split("</section>")[0]
    assert history.count("<circle") == len(ended)
    for file in (report / "figures").glob("*.svg"):
        assert f"figures/{file.name}" in (report / "report.md").read_text()
        assert not re.search(r"\bnan\b|\binf\b", file.read_text())


def test_what_pruning_saved_is_counted_from_the_runs(done: Any) -> None:
    report, search, place, trials = done
    ended = {trial.runs[0] for trial in trials if trial.state in ("complete", "pruned")}
    seen = sum(place.run(run).rows()[-1]["images"] for run in ended)
    share = round(100 * (1 - seen / (len(ended) * 12800)))
    assert f"{share} % saved" in (report / "report.md").read_text()
    assert search.levels == (3200, 6400)


def test_nothing_of_this_machine_and_nothing_from_elsewhere(done: Any) -> None:
    report, _, place, _ = done
    for file in [file for file in report.rglob("*") if file.is_file()]:
        assert str(place.path) not in file.read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', (report / "index.html").read_text())


def test_a_confirmation_is_told(done: Any) -> None:
    report, search, place, _ = done
    row = {"metric": "test/knn", "arm": "trial_3", "baseline": "base", "words": "not separable: +1.0 points"}
    atomic.write_json(report.parent / "s-confirm" / "verdict.json", [row])
    write_search_report(search, place, report)
    page = (report / "index.html").read_text()
    assert "not separable: +1.0 points" in page
    assert "Unconfirmed" not in page
    (report.parent / "s-confirm" / "verdict.json").unlink()


def test_before_any_trial_has_ended(tmp_path: Path) -> None:
    search, place = synthetic.search(), synthetic.workspace(tmp_path)
    page = write_search_report(search, place, tmp_path / "out")
    assert "No trial has ended yet." in page.read_text()
    assert not (tmp_path / "out" / "best.yaml").exists()


def test_a_front_is_shown_whole(tmp_path: Path) -> None:
    metrics = {"val/knn": "maximize", "cost/flops": "minimize"}
    space = {"optim.lr": synthetic.SPACE["optim.lr"], "optim.steps": {"integers": [50, 400]}}
    search, place, trials = searched(tmp_path, metrics=metrics, space=space)
    page = write_search_report(search, place, tmp_path / "out").read_text()
    front = best_trials(search, trials)
    assert f"{len(front)} trials on the front" in page
    for trial in front:
        assert not [
            other
            for other in trials
            if other.values and trial.values and other.values[0] > trial.values[0] and other.values[1] < trial.values[1]
        ]


def test_intervals_over_seeds_stand_beside_the_values(tmp_path: Path) -> None:
    search, place, _ = searched(tmp_path, seeds=[0, 1, 2], budget={"trials": 4})
    text = write_search_report(search, place, tmp_path / "out").with_name("report.md").read_text()
    assert re.search(r"\| \d+\.\d \| −?\d+\.\d to \d+\.\d \|", text)
