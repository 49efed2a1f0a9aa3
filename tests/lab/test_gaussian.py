"""Points of a Gaussian process from a process of its own: those of Optuna's sampler, also after a kill; no torch here."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import synthetic

from dinov2lab.lab.gaussian import Gaussian, GaussianSampler

SPACE = {
    "rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
    "crops": optuna.distributions.IntDistribution(1, 8),
    "centering": optuna.distributions.CategoricalDistribution(["sinkhorn", "ema"]),
}


@pytest.fixture
def gaussian() -> Iterator[Gaussian]:
    made = Gaussian()
    yield made
    made.dismiss()


def studied(sampler: optuna.samplers.BaseSampler, count: int = 6) -> optuna.Study:
    """After so many trials at random, and one that goes on; what comes next is the sampler's."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask(SPACE)
        study.tell(trial, trial.params["rate"] * trial.params["crops"])
    study.ask(SPACE)
    study.sampler = sampler
    return study


def test_it_proposes_what_optunas_sampler_does_also_after_a_kill(gaussian: Gaussian) -> None:
    own = GaussianSampler(gaussian, 7, 5)
    first, again = studied(own), studied(own)
    theirs = optuna.samplers.GPSampler(seed=7, n_startup_trials=5)
    wanted = studied(theirs).ask(SPACE).params
    assert first.ask(SPACE).params == wanted
    process = gaussian._process
    assert process
    process.kill()
    process.wait()
    assert again.ask(SPACE).params == wanted
    assert gaussian._process is not process


def test_until_it_has_seen_enough_it_draws_at_random_and_starts_nothing(gaussian: Gaussian) -> None:
    own, chance = studied(GaussianSampler(gaussian, 7, 7)), studied(optuna.samplers.RandomSampler(seed=7))
    assert own.ask(SPACE).params == chance.ask(SPACE).params
    assert gaussian._process is None


def test_one_that_dies_again_and_again_is_one_line(gaussian: Gaussian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ValueError, match=r"what proposes points \(sampler gp\) died twice, of exit code 1"):
        studied(GaussianSampler(gaussian, 7, 5)).ask(SPACE)


ASKING = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import synthetic
from dinov2lab.lab.desk import Desk
place = synthetic.workspace(Path(sys.argv[2]))
desk = Desk(synthetic.search(sampler={"kind": "gp", "startup": 4}, budget={"trials": 6}), place, synthetic.Bench(place))
while desk.turn():
    pass
print("torch" in sys.modules, re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.system
def test_what_asks_and_tells_has_no_torch_and_stays_small(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASKING, str(Path(synthetic.__file__).parent), str(tmp_path)]
    torch, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert torch == "False"
    assert int(peak) < 200 * 1024
