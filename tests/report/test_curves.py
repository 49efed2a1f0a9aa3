import pytest

from dinov2lab.report.curves import signature
from dinov2lab.report.tables import ROWS, _thinned
from dinov2lab.spec.run import RunSpec


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
    kept = _thinned(rows)
    assert [row["step"] for row in kept if "val/knn" in row] == list(range(0, 1000, 7))
    assert len([row for row in kept if "val/knn" not in row]) <= ROWS
    assert _thinned(rows[:ROWS]) == rows[:ROWS]
    assert _thinned([]) == []
