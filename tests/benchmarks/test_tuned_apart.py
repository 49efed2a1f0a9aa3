"""Two equal arms that were tuned, simulated: what the studies of them claim."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
STUDIES = 4000
ERROR = 3 * (0.05 * 0.95 / STUDIES) ** 0.5  # three standard errors of a share of 5 %


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("budget", "seeds"), [(6, 3), (12, 5)])
def test_with_a_search_for_each_seed_no_more_is_claimed_than_alpha(
    monkeypatch: pytest.MonkeyPatch, shared: bool, budget: int, seeds: int
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from tuning import Way, claimed, differences

    assert claimed(differences(Way(True, shared, budget, seeds), STUDIES)[0]) < 0.05 + ERROR
    assert claimed(differences(Way(False, shared, budget, seeds), STUDIES)[0]) > 0.05 + ERROR
