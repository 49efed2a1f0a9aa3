"""How fast a recipe trains here, and in how many parts its batch fits."""

from pathlib import Path

import pytest
import torch

from dinov2lab.data.loader import Pictures
from dinov2lab.data.source import Roots, open_source
from dinov2lab.lab import speed
from dinov2lab.lab.speed import Speed, speed_of
from dinov2lab.spec.load import load_recipe

SMOKE = load_recipe(Path(__file__).parent.parent.parent / "experiments/smoke.yaml")


def test_a_recipe_is_timed_with_views_and_steps_and_decoding_where_it_is_not_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        speed, "_step_seconds", lambda spec, batch, device, resources: 0.5 * (len(batch.crops[0]) == 64)
    )
    monkeypatch.setattr(speed, "_best", lambda work: (1.0, work()))
    source = open_source("toyweb:queries?images=96", Roots(tmp_path, tmp_path))
    pictures, cpu = Pictures(source, range(20)), torch.device("cpu")
    assert speed_of(SMOKE, pictures, 0.0, cpu, 0) == Speed(32 / 1.5)
    assert speed_of(SMOKE, pictures, 1.5 / 32, cpu, 0) == Speed(32 / 3.0, decoding=0.5)


def test_the_fastest_try_counts_and_what_takes_long_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([3.0, 1.0, 2.0, 1.5, 4.0, 5.0, 0.1])
    monkeypatch.setattr(speed, "_timed", lambda work: (next(seconds), work()))
    assert speed._best(lambda: "done") == (1.0, "done")
    assert list(seconds) == [0.1]
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    seconds = iter([3.0, 1.0])
    assert speed._best(lambda: "done") == (3.0, "done")


def test_a_batch_is_cut_until_it_fits() -> None:
    tried = []

    def seconds(parts: int) -> float:
        tried.append(parts)
        if parts < 2:
            raise torch.cuda.OutOfMemoryError
        return 1.0

    assert speed._in_parts_that_fit(SMOKE, seconds) == (2, 1.0)
    assert tried == [1, 2]


def test_a_batch_that_never_fits_is_one_line() -> None:
    def seconds(parts: int) -> float:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(ValueError, match="a batch of 32 images does not fit"):
        speed._in_parts_that_fit(SMOKE, seconds)
