"""How fast a recipe trains here, and in how many parts its batch fits."""

from pathlib import Path

import pytest
import torch

from dinov2lab.data.loader import CACHE_BYTES, Pictures
from dinov2lab.data.source import Roots, open_source
from dinov2lab.lab import speed
from dinov2lab.lab.speed import speed_of
from dinov2lab.spec.load import load_recipe

SMOKE = load_recipe(Path(__file__).parent.parent.parent / "experiments/smoke.yaml")


def test_a_recipe_is_timed_with_views_and_steps_and_decoding_where_it_is_not_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        speed, "_step_seconds", lambda spec, batch, device, resources: 0.5 * (len(batch.crops[0]) == 64)
    )
    monkeypatch.setattr(speed, "TRIES", 1)
    seconds = iter([(3.0, None), (1.0, None)] * 2)
    genuine = speed._timed
    monkeypatch.setattr(speed, "_timed", lambda work: (next(seconds)[0], genuine(work)[1]))
    source = open_source("toyweb:queries?images=96", Roots(tmp_path, tmp_path))
    for taken, each in ((0.0, 1.5), (CACHE_BYTES + 1, 3.5)):
        found = speed_of(SMOKE, Pictures(source, range(96)), taken, torch.device("cpu"), 0)
        assert found == (SMOKE.optim.batch / each, 1, None)


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
