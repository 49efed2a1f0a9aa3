"""Regret of a search on synthetic trials, beside Optuna's own loop and random search; and what the search itself costs.

    python benchmarks/search.py [--seeds 200]

A trial is a run without training (tests/synthetic.py): a known optimum, noise, learning curves of which the better ends
start slower, and slightly rugged looks at val. Everything else is the search as it is: controller, journal, run folders. What
is spent is counted in images, in units of a whole run. Regret: how far the true value of the trial that the search would
choose lies below the optimum, in points of accuracy.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import synthetic

from dinov2lab.lab.desk import Desk
from dinov2lab.spec.points import spec_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store.trials import best_trials, read_trials

NOISE = 0.01
RUNS = 24  # whole runs that a search may spend
LOOKS = (8, 16, 24)
OPTIMUM = 0.9
WHOLE = 400 * 32  # images
ASHA = {"kind": "asha", "first": 3200, "reduction": 2}
Spent = tuple[float, float]  # (whole runs, regret)


def regret_of(search: SearchSpec, point: dict[str, Any]) -> float:
    return 100 * (OPTIMUM - synthetic.truth(spec_at(search, point)))


def ours(seed: int, folder: Path, **own: Any) -> Iterator[Spent]:
    search = synthetic.search(seeds=[seed], budget={"images": RUNS * WHOLE}, **own)
    place = synthetic.workspace(folder)
    desk = Desk(search, place, synthetic.Bench(place, size=NOISE, paced=search.rungs))
    while desk.turn():
        pass
    trials, images = read_trials(place.search("s")), dict[tuple[str, ...], int]()
    for place_in_order, trial in enumerate(trials):
        images[trial.runs] = max(trial.images, images.get(trial.runs, 0))
        if best := best_trials(search, trials[: place_in_order + 1]):
            yield sum(images.values()) / WHOLE, regret_of(search, best[0].point)


def optunas(seed: int, pruner: optuna.pruners.BasePruner) -> Iterator[Spent]:
    """`optimize` with the same sampler, an objective that computes the same curve, and Optuna's own halving."""
    search = synthetic.search(seeds=[seed])
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=10, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    images = 0
    found = list[Spent]()

    def objective(trial: optuna.Trial) -> float:
        nonlocal images
        point = {
            "optim.lr": trial.suggest_float("optim.lr", 1e-5, 1e-1, log=True),
            "objective.teacher.temperature": trial.suggest_float("objective.teacher.temperature", 0.01, 0.1),
        }
        spec, before, value = spec_at(search, point).seeded(seed), 0, 0.0
        for at, value in synthetic.curve(spec, NOISE):
            images, before = images + at - before, at
            trial.report(value, at)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    def note(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if done:
            found.append((images / WHOLE, regret_of(search, max(done, key=lambda each: each.value or 0.0).params)))
        if images >= RUNS * WHOLE:
            study.stop()

    study.optimize(objective, callbacks=[note])
    yield from found


def at(path: list[Spent], runs: float) -> float:
    """The regret when so much had been spent; of the first choice where there was none yet."""
    return [regret for spent, regret in path if spent <= runs + 1e-9][-1] if path[0][0] <= runs else path[0][1]


METHODS: dict[str, Any] = {
    "random": lambda seed, folder: ours(seed, folder, sampler={"kind": "random", "seed": seed}),
    "tpe": lambda seed, folder: ours(seed, folder, sampler={"kind": "tpe", "seed": seed}),
    "tpe, Optuna's loop": lambda seed, _: optunas(seed, optuna.pruners.NopPruner()),
    "tpe and asha": lambda seed, folder: ours(seed, folder, sampler={"kind": "tpe", "seed": seed}, pruner=ASHA),
    "tpe and asha, Optuna's loop": lambda seed, _: optunas(seed, optuna.pruners.SuccessiveHalvingPruner(3200, 2, 0)),
}


def overhead(trials: int = 50) -> None:
    """Wall and CPU time of the search itself per trial, runs answering at once, on the disk that TMPDIR names."""
    for name, own in (("tpe", {}), ("tpe and asha", {"pruner": ASHA})):
        with tempfile.TemporaryDirectory() as folder:
            place, search = synthetic.workspace(Path(folder)), synthetic.search(budget={"trials": trials}, **own)
            desk = Desk(search, place, synthetic.Bench(place))
            wall, cpu = time.perf_counter(), time.process_time()
            while desk.turn():
                pass
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(
                f"{name}: {1000 * wall / trials:.0f} ms wall, {1000 * cpu / trials:.0f} ms CPU a trial, {trials} trials"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=200)
    seeds = range(parser.parse_args().seeds)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    overhead()
    print(
        f"mean regret in points over {len(seeds)} seeds, with 95 % interval, after so many whole runs' worth of images"
    )
    print("| method |" + "|".join(f" {runs} " for runs in LOOKS) + "|\n|---|" + "---|" * len(LOOKS))
    for name, method in METHODS.items():
        paths = []
        for seed in seeds:
            with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                paths.append(list(method(seed, Path(folder))))
        cells = []
        for runs in LOOKS:
            values = [at(path, runs) for path in paths]
            reach = 1.96 * statistics.stdev(values) / len(values) ** 0.5
            cells.append(f" {statistics.fmean(values):.2f} ± {reach:.2f} ")
        print(f"| {name} |" + "|".join(cells) + "|", flush=True)


if __name__ == "__main__":
    main()
