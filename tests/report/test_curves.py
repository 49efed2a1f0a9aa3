import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated import append, finish, start, study

from dinov2lab.report.curves import MOST_LINES, learning, signature
from dinov2lab.report.figures import Line, Panel
from dinov2lab.report.figures import panel as draw
from dinov2lab.report.render import write_report
from dinov2lab.report.results import HISTORY, ROWS, thinned
from dinov2lab.report.tables import Run
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import expand
from dinov2lab.store.folders import Workspace


@pytest.mark.parametrize(
    ("metric", "share"), [("loss/dino_local", 16 / 18), ("loss/dino_global", 2 / 18), ("loss/ibot", 0.5)]
)
def test_a_uniform_output_is_marked_at_the_share_of_ln_k_that_the_reference_logs(metric: str, share: float) -> None:
    found, prototypes = signature(
        RunSpec(), metric
    )  # the released ViT-L/16 recipe: eight local crops, 65,536 prototypes
    assert found == pytest.approx(share)
    assert prototypes == 65536


def test_an_entropy_is_marked_at_the_whole_of_ln_k() -> None:
    assert signature(RunSpec(), "teacher/entropy") == (1.0, 65536)


def test_the_table_thins_a_long_history_but_keeps_every_look_at_val() -> None:
    rows = [{"step": step, "loss/total": 1.0} | ({"val/knn": 0.5} if step % 7 == 0 else {}) for step in range(1000)]
    kept = thinned(rows, HISTORY)
    assert [row["step"] for row in kept if "val/knn" in row] == list(range(0, 1000, 7))
    assert len([row for row in kept if "val/knn" not in row]) <= ROWS
    assert thinned(rows[:ROWS], HISTORY) == rows[:ROWS]
    assert thinned([], HISTORY) == []


def test_of_a_study_with_very_many_runs_each_has_a_small_share_of_the_table() -> None:
    rows = [{"step": step, "loss/total": 1.0} | ({"val/knn": 0.5} if step % 7 == 0 else {}) for step in range(1000)]
    assert len(thinned(rows, 2)) <= 4


def test_of_very_many_runs_each_arm_has_one_line_its_median_and_spread() -> None:
    one = study(seeds=MOST_LINES)
    rows = [{"step": 10, "images": 640.0, "loss/total": 0.0}, {"step": 20, "images": 1280.0, "loss/total": 0.0}]
    runs = tuple(
        Run(
            cell.arm,
            cell.seed,
            cell.run,
            cell.spec,
            None,
            tuple(row | {"loss/total": float(cell.seed)} for row in rows),
            {},
            None,
        )
        for cell in expand(one)
    )
    (panel,) = learning(one, runs)
    assert [line.label for line in panel.lines] == [f"{arm.name}, median of {MOST_LINES} runs" for arm in one.arms]
    values = list(range(MOST_LINES))
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    assert list(panel.lines[1].points) == [(640.0, middle), (1280.0, middle)]
    assert list(panel.lines[1].spread) == [(640.0, low, high), (1280.0, low, high)]
    assert draw(panel).count('class="band"') == len(one.arms)


def test_a_curve_breaks_where_a_value_is_no_number_or_without_bounds() -> None:
    drawn = draw(Panel("x", (Line(0, "a", [(0, 1.0), (10, math.inf), (20, 2.0), (30, math.nan), (40, 1.5)]),)))
    (path,) = re.findall(r'd="([^"]*)" class="run"', drawn)
    assert re.fullmatch(r"M[^LM]*M[^LM]*M[^LM]*", path)


def test_looks_at_the_student_and_at_segmentation_have_curves_beside_the_teachers() -> None:
    one = study(seeds=1)
    looks = ("val/knn", "val/segmentation", "student/val/knn")
    rows = tuple({"step": step, "images": 64.0 * step, **dict.fromkeys(looks, step / 100)} for step in (10, 20))
    runs = tuple(Run(cell.arm, cell.seed, cell.run, cell.spec, None, rows, {}, None) for cell in expand(one))
    panels = learning(one, runs)
    assert [panel.title for panel in panels] == ["val kNN, %", "val segmentation, %", "student/val kNN, %"]
    assert list(panels[2].lines[0].points) == [(640.0, 0.1), (1280.0, 0.2)]


def test_the_report_says_when_teacher_and_student_were_best_by_each_look(tmp_path: Path) -> None:
    """The median of an arm's runs, from the first to the last: recomputed from results.csv."""
    one, workspace = study(seeds=3), Workspace(tmp_path / "lab")
    for cell in expand(one):
        start(workspace, cell)
        steps = [{"step": 400, "images": 25_600, "val/knn": 0.5, "val/segmentation": 0.1}]
        append(workspace, cell, steps)
        early = {"choice/images_at_best_val_segmentation": 6400.0 * (1 + cell.seed)}
        finish(workspace, cell, **early, **{"choice/images_at_best_val_knn": 25_600.0})
    write_report(one, workspace, tmp_path / "x")
    table = pd.read_csv(tmp_path / "x" / "results.csv")
    seen = table[(table.arm == "retrieved") & (table.metric == "choice/images_at_best_val_segmentation")].value
    assert (seen.min(), seen.median(), seen.max()) == (6400, 12_800, 19_200)
    markdown = (tmp_path / "x" / "report.md").read_text().replace("\u202f", " ")
    assert "| retrieved | val segmentation | 12.8 k (6.4 k to 19.2 k) |" in markdown
    page = " ".join(re.sub(r"<[^>]*>", " ", (tmp_path / "x" / "index.html").read_text()).replace("\u202f", " ").split())
    assert "Images seen at the best look" in page
    assert "retrieved 25.6 k 25.6 k to 25.6 k 12.8 k 6.4 k to 19.2 k" in page
