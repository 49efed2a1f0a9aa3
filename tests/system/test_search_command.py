"""A search with real runs, as its user walks it: one command, a report, then the same command again."""

import csv
import json
from pathlib import Path

import pytest
from tiny import RECIPE, dinov2lab

from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.search import produced

pytestmark = pytest.mark.system
SEARCH = """
question: Does the search hold?
base: tiny.yaml
space:
  optim.lr: {log: [1.0e-4, 1.0e+30]}
  objective.teacher.temperature: {linear: [0.02, 0.06]}
metrics: {val/knn: maximize}
budget: {trials: 5}
sampler: {kind: tpe, startup: 3}
pruner: {kind: asha, first: 128, reduction: 2}
enqueue: [base, {optim.lr: 1.0e+30, objective.teacher.temperature: 0.03}]
"""

MEASURED = """
import re
from pathlib import Path
from dinov2lab.cli import main
try:
    main()
finally:
    Path("peak").write_text(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "tiny.yaml").write_text(RECIPE)
    (folder / "experiments" / "search_tiny.yaml").write_text(SEARCH)
    answer = dinov2lab(folder, "search", "search_tiny", "--jobs", "1", program=("-c", MEASURED))
    assert answer.returncode == 0, answer.stderr
    assert "reports/search_tiny/index.html" in answer.stdout
    return folder


def test_the_process_that_asks_and_tells_stays_small(lab: Path) -> None:
    """What trains, draws and mirrors has processes of its own."""
    assert int((lab / "peak").read_text()) < 200 * 1024


def test_every_point_was_tried_and_what_diverged_is_a_failure(lab: Path) -> None:
    with (lab / "reports" / "search_tiny" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["origin"] != "promoted"]) == 5
    assert (rows[0]["origin"], rows[0]["state"], rows[1]["state"]) == ("enqueued", "complete", "failed")
    assert rows[1]["reason"]


def test_a_run_produces_what_a_search_may_be_after_and_tells_all_its_val(lab: Path) -> None:
    known = produced(load_recipe(lab / "experiments" / "tiny.yaml"))
    for file in lab.glob("lab/runs/*/result.json"):
        metrics = json.loads(file.read_text())["metrics"]
        assert {name for name in metrics if name.startswith(("val/", "health/"))} == {
            name for name in known if not name.startswith("cost/")
        }


def test_best_yaml_runs_and_has_its_result_already(lab: Path) -> None:
    recipe = lab / "reports" / "search_tiny" / "best.yaml"
    assert (lab / "lab" / "runs" / run_id(load_recipe(recipe)) / "result.json").exists()
    answer = dinov2lab(lab, "run", str(recipe))
    assert answer.returncode == 0
    assert "val/knn" in answer.stdout


def test_the_same_command_again_does_nothing(lab: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in lab.rglob("*") if file.is_file()}
    assert dinov2lab(lab, "search", "search_tiny").returncode == 0
    assert {file: file.stat().st_mtime_ns for file in lab.rglob("*") if file.is_file()} == before


def test_a_winner_is_confirmed_by_a_study_with_fresh_seeds(lab: Path) -> None:
    answer = dinov2lab(lab, "search", "search_tiny", "--confirm", "1", "--confirm-seeds", "2", "--jobs", "1")
    assert answer.returncode in (0, 2), answer.stderr  # 2: the base is the best, and there is nothing to confirm
    if answer.returncode == 0:
        verdict = json.loads((lab / "reports" / "search_tiny-confirm" / "verdict.json").read_text())
        assert {row["baseline"] for row in verdict} == {"base"}
        assert "With fresh seeds" in (lab / "reports" / "search_tiny" / "index.html").read_text()
    else:
        assert "nothing to confirm" in answer.stderr


def test_mistakes_are_one_line_and_exit_code_2(lab: Path) -> None:
    for words, says in (
        (("search", "tiny"), "is a recipe, and a search is wanted"),
        (("run", "search_tiny"), "dinov2lab search"),
        (("search", "search_tinny"), "did you mean search_tiny?"),
        (("search", "search_tiny", "--set", "optim.lrr=1"), "did you mean optim.lr?"),
        (
            ("search", "search_tiny", "--set", "budget.trials=9", "--storage", "sqlite:///other.db"),
            "lives in another storage",
        ),
    ):
        answer = dinov2lab(lab, *words)
        assert answer.returncode == 2, answer.stderr
        assert says in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
