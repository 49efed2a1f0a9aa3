"""A search on toyweb against the grid of the same two fields, both on val: what 12 trials miss of what 25 find.

    python benchmarks/search_grid.py --workspace LAB [--steps 240]

The recipe is experiments/toyweb.yaml at another length, one seed; learning rate and teacher temperature are searched with
TPE, and their 5 x 5 grid is run whole. Both go through the search's own controller, so that the same command goes on after a
kill. Beside the gap it says what as many points of the grid, drawn at random, would have found on average: the grid tells.
"""

import argparse
from itertools import pairwise
from math import comb
from pathlib import Path

from dinov2lab.data.source import Roots
from dinov2lab.lab.bench import LocalBench
from dinov2lab.lab.search import run_searches
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.search import Budget, Dimension, Sampler, SearchSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, best_trials, read_trials

ROOT = Path(__file__).parent.parent
RATE, TEMPERATURE = "optim.lr", "objective.teacher.temperature"
TRIALS, POINTS, STARTUP = 12, 5, 5


def searches(steps: int) -> tuple[SearchSpec, SearchSpec]:
    """(by TPE, on the grid)"""
    tpe = SearchSpec(
        name=f"tpe-{steps}",
        base=load_recipe(ROOT / "experiments" / "toyweb.yaml", [f"optim.steps={steps}"]),
        space={RATE: Dimension(log=(5e-4, 2e-2)), TEMPERATURE: Dimension(linear=(0.02, 0.07))},
        metrics={"val/knn": "maximize"},
        budget=Budget(trials=TRIALS),
        sampler=Sampler(kind="tpe", startup=STARTUP),
    )
    grid = {"name": f"grid-{steps}", "sampler": Sampler(kind="grid", points=POINTS), "budget": Budget(trials=POINTS**2)}
    return tpe, tpe.model_copy(update=grid)


def run(search: SearchSpec, workspace: Workspace, roots: Roots, jobs: int) -> tuple[Trial, ...]:
    folder, told = workspace.search(search.name), set[int]()

    def tell() -> None:
        for trial in read_trials(folder):
            if trial.state != "running" and trial.number not in told:
                told.add(trial.number)
                print(f"{search.name} {trial.number}: {_text(trial)}", flush=True)

    bench = LocalBench(workspace, roots, Resources(device="cpu"), jobs)
    run_searches([search], workspace, roots, lambda _: bench, on_change=tell, on_trouble=print)
    return read_trials(folder)


def _text(trial: Trial) -> str:
    value = f"{100 * trial.values[0]:.2f} %" if trial.values else f"{trial.state}, {trial.reason}"
    return f"{value} at {RATE} {trial.point[RATE]:.3g}, {TEMPERATURE} {trial.point[TEMPERATURE]:.4g}"


def drawn(values: list[float], count: int) -> float:
    """The best of `count` of `values` drawn without putting back, on average."""
    ranked = sorted(values)
    ways = [comb(place, count) for place in range(len(ranked) + 1)]  # with all drawn from the first `place`
    return sum(value * (more - less) for value, (less, more) in zip(ranked, pairwise(ways), strict=True)) / ways[-1]


def show_grid(trials: tuple[Trial, ...]) -> None:
    temperatures = sorted({trial.point[TEMPERATURE] for trial in trials})
    found = {(trial.point[RATE], trial.point[TEMPERATURE]): trial.values for trial in trials}
    print("| lr |" + "|".join(f" {each:.4g} " for each in temperatures) + "|\n|---|" + "---|" * len(temperatures))
    for rate in sorted({trial.point[RATE] for trial in trials}):
        cells = [found.get((rate, each)) for each in temperatures]
        print(f"| {rate:.3g} |" + "|".join(f" {100 * cell[0]:.1f} " if cell else " failed " for cell in cells) + "|")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    place = Workspace(asked.workspace)
    roots = Roots(Path(), place.cache)
    tpe, grid = searches(asked.steps)
    by_search, by_grid = (run(search, place, roots, asked.jobs) for search in (tpe, grid))
    show_grid(by_grid)
    searched, best = best_trials(tpe, by_search)[0], best_trials(grid, by_grid)[0]
    values = [trial.values[0] if trial.values else 0.0 for trial in by_grid]
    assert searched.values
    assert best.values
    print(f"{TRIALS} trials: {_text(searched)}\n{POINTS**2} points:  {_text(best)}")
    print(f"the search ends {100 * (searched.values[0] - best.values[0]):+.2f} points beside the grid's best")
    print(f"{TRIALS} points of the grid at random: {100 * drawn(values, TRIALS):.2f} % on average")


if __name__ == "__main__":
    main()
