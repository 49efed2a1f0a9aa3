"""What benchmarks/tuning.py simulates, through the searches themselves: how often two equal arms are claimed to differ.

    python benchmarks/tuned_studies.py [--studies N] [--sampler tpe] [--trials 12] [--seeds 3] [--startup 10]

Arms are tuned as `dinov2lab run` tunes them, with runs that are a formula (tests/synthetic.py), for each seed and once for
all of them; then each cell of the study is its true value and noise of a point. One JSON line for each of the two.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import synthetic

from dinov2lab.lab.desk import Desk
from dinov2lab.report.statistics import paired_difference, separates
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.search import Budget
from dinov2lab.spec.study import Arm, Decide, Study, Tune, expand
from dinov2lab.spec.tuning import searches
from dinov2lab.store.studies import tuned_here

NOISE, ALPHA = 0.01, 0.05
KOLEO = (0.1, 0.2)  # the arms differ in what the formula does not know


def study_of(number: int, per: Literal["arm", "seed"], asked: argparse.Namespace) -> Study:
    """One of many: the names of its arms and its seeds decide what is drawn."""
    search = synthetic.search(sampler={"kind": asked.sampler, "startup": asked.startup})
    arms, seeds = list[Arm](), range(number * asked.seeds, (number + 1) * asked.seeds)
    for name, weight in zip(("a", "b"), KOLEO, strict=True):
        plain = synthetic.BASE | {"objective": {"koleo": {"group": 16, "weight": weight}}}
        arms.append(Arm(name=f"{name}{number}", spec=RunSpec.model_validate_json(json.dumps(plain))))
    return Study(
        name="s",
        question="Is there a difference where there is none?",
        factor=("objective.koleo.weight",),
        baseline=arms[0].name,
        arms=tuple(arms),
        seeds=tuple(seeds),
        metrics=("val/knn",),
        decide=Decide(metric="val/knn"),
        tune=Tune(per_arm=search, budget=Budget(trials=asked.trials), per=per),
    )


def claims(study: Study, folder: Path, generator: np.random.Generator) -> bool:
    place = synthetic.workspace(folder)
    for search in searches(study).values():
        desk = Desk(search, place, synthetic.Bench(place, size=NOISE, rows=_end))
        while desk.turn():
            pass
        desk.conclude()
    scores = dict[str, list[float]]()
    for cell in expand(tuned_here(study, place)):
        scores.setdefault(cell.arm, []).append(synthetic.truth(cell.spec) + generator.normal(0, NOISE))
    ours, theirs = (scores[arm.name] for arm in study.arms)
    return separates(paired_difference(ours, theirs, ALPHA, 1), higher_is_better=True) in ("better", "worse")


def _end(spec: RunSpec) -> list[dict[str, float]]:
    """A run's last row, which is all that is chosen by."""
    at, value = synthetic.curve(spec, NOISE)[-1]
    return [{"step": at // spec.optim.batch, "images": at, "time": 1, "val/knn": value}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--startup", type=int, default=10)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for per in ("seed", "arm"):
        generator, found = np.random.default_rng(0), list[bool]()
        for number in range(asked.studies):
            with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                study = study_of(number, per, asked)
                found.append(claims(study, Path(folder), generator))
        told = vars(asked) | {"per": per, "claims": round(sum(found) / len(found), 4)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
