import pytest

from dinov2lab.report.curves import signature
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
