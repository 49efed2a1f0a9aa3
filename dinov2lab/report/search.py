"""write_search_report: what a search left on disk, as one page, one Markdown file, a table, and a recipe that runs."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dinov2lab.report import recipe, render, words
from dinov2lab.report.statistics import mean_of
from dinov2lab.report.trialplots import drawn
from dinov2lab.spec.cost import images_of_run
from dinov2lab.spec.points import runs_at, spec_at
from dinov2lab.spec.search import SearchSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import Trial, best_trials, once, read_trials

BEST = 10  # trials shown in the table
UNCONFIRMED = (
    "Unconfirmed: the best of many looks better than it is. --confirm trains it and the base with fresh seeds."
)


class Row(NamedTuple):
    """A trial in a table."""

    trial: Trial
    values: tuple[str, ...]
    seeds: str  # the interval over its seeds, or how many there are
    point: tuple[str, ...]


@dataclass(frozen=True)
class Saved:
    """What pruning saved, against running every point to its end."""

    points: int
    images: int
    whole: int

    @property
    def share(self) -> float:
        return 1 - self.images / self.whole if self.whole else 0.0


def write_search_report(search: SearchSpec, workspace: Workspace, out: Path, asked_by: str | None = None) -> Path:
    """Write index.html, report.md with figures/, trials.csv and, where a trial has ended well, best.yaml into `out`.

    Works at every stage of a search. Returns the page. `asked_by`: the study whose arm it tunes, and which asks its winner
    again. Imports no optuna and no torch.
    """
    trials = read_trials(workspace.search(search.name))
    view = _view(search, trials, workspace, out, asked_by)
    _write_table(search, trials, out / "trials.csv")
    if view["best"]:
        best = view["best"][0].trial
        atomic.write_text(
            out / "best.yaml", recipe.as_yaml(spec_at(search, best.point), _headline_of_recipe(search, best))
        )
    pictures = [(f"figures/{each.name}.svg", each.title) for each in view["figures"]]
    for each in view["figures"]:
        render.write_svg(out / "figures" / f"{each.name}.svg", each.svg)
    atomic.write_text(out / "report.md", render.markdown().get_template("search.md.j2").render(view, pictures=pictures))
    atomic.write_text(out / "index.html", render.html().get_template("search.html.j2").render(view))
    return out / "index.html"


def _view(
    search: SearchSpec, trials: tuple[Trial, ...], workspace: Workspace, out: Path, asked_by: str | None
) -> dict[str, Any]:
    """What both templates show."""
    best = best_trials(search, trials)
    base = _base(search, trials)
    ended = [trial for trial in trials if trial.state != "running"]
    importances = _read(workspace.search(search.name) / "importances.json") or {}
    confirmed = _read(out.parent / f"{search.name}-confirm" / "verdict.json")
    return {
        "search": search,
        "words": words,
        "short": recipe.short,
        "trials": trials,
        "best": [_row(search, trial) for trial in best[:BEST]],
        "base": _row(search, base) if base else None,
        "headline": _headline(search, trials, best, base, _worth(search, confirmed, asked_by)),
        "confirmed": confirmed,
        "importances": importances,
        "figures": drawn(search, trials, importances),
        "failed": [trial for trial in ended if trial.state == "failed"],
        "states": {
            state: sum(trial.state == state for trial in trials)
            for state in ("complete", "pruned", "failed", "running")
        },
        "promoted": [trial for trial in trials if trial.origin == "promoted"],
        "earlier": [trial for trial in trials if trial.origin == "earlier"],
        "transferred": [trial for trial in trials if trial.origin == "transferred"],
        "levels": search.levels,
        "saved": _saved(search, ended),
        "seconds": sum(once(ended, "seconds")),
        "images": sum(once(ended, "images")),
    }


def _read(file: Path) -> Any:
    return json.loads(file.read_bytes()) if file.exists() else None


def _saved(search: SearchSpec, ended: Sequence[Trial]) -> Saved:
    mine = {trial.runs: trial for trial in ended if trial.origin != "earlier" and trial.state in ("complete", "pruned")}
    whole = sum(images_of_run(spec_at(search, trial.point)) * len(search.seeds) for trial in mine.values())
    return Saved(len(mine), int(sum(once(list(mine.values()), "images"))), whole)


def _base(search: SearchSpec, trials: Sequence[Trial]) -> Trial | None:
    """The trial of the base recipe, where there is one."""
    runs = tuple(each.run for each in runs_at(search, {}))
    return next((trial for trial in trials if trial.runs == runs and trial.state == "complete"), None)


def _row(search: SearchSpec, trial: Trial) -> Row:
    values = tuple(_value(name, value) for name, value in zip(search.metrics, trial.values or (), strict=False))
    point = tuple(recipe.short(trial.point[key]) if key in trial.point else "" for key in search.space)
    return Row(trial, values, _over_seeds(search, trial), point)


def _value(metric: str, value: float) -> str:
    return words.amount(value) if metric in ("cost/images", "cost/flops") else words.value(metric, value)


def _over_seeds(search: SearchSpec, trial: Trial) -> str:
    metric, seen = next(iter(search.metrics)), [value for _, value in trial.looks]
    if len(search.seeds) == 1 or len(search.metrics) > 1:
        return "one run" if len(search.seeds) == 1 else words.seeds(search.seeds)
    return words.span(metric, mean_of(seen, 0.05).interval)


def _headline(
    search: SearchSpec, trials: Sequence[Trial], best: Sequence[Trial], base: Trial | None, worth: str
) -> list[str]:
    """What was found, and what it is worth."""
    if not best:
        return ["No trial has ended yet." if not trials else "No trial has run to its end."]
    if len(search.metrics) > 1:
        return [
            f"{words.plural(len(best), 'trial')} on the front of {words.listed(list(search.metrics))}.",
            worth,
        ]
    metric, value = next(iter(search.metrics)), (best[0].values or (math.nan,))[0]
    unit = " %" if words.is_accuracy(metric) else ""
    found = (
        f"Trial {best[0].number} is the best of {len(trials)}: {words.title(metric)} {words.value(metric, value)}{unit}"
    )
    if base and base.values and base.number == best[0].number:
        asks = "--confirm 2 asks with fresh seeds whether the next one is any worse."
        return [f"{found}. It is the base: nothing did better.", asks if worth == UNCONFIRMED else worth]
    if base and base.values:
        gain = words.signed_points(metric, value - base.values[0])
        found += f", {gain} against the base ({words.value(metric, base.values[0])}{unit}, trial {base.number})"
    return [f"{found}.", worth]


def _worth(search: SearchSpec, confirmed: Any, asked_by: str | None) -> str:
    if asked_by:
        return (
            f"It is no evidence: it was chosen on {words.seeds(search.seeds)}, and the study {asked_by} "
            "asks it again on seeds that chose nothing."
        )
    if not confirmed:
        return UNCONFIRMED
    told = [f"{row['arm']}: {row['words']}" for row in confirmed if row["metric"] == confirmed[0]["metric"]]
    return f"With fresh seeds, on {words.title(confirmed[0]['metric'])}, against the base: {'; '.join(told)}."


def _headline_of_recipe(search: SearchSpec, best: Trial) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(search.metrics, best.values or (), strict=False))
    return f"Trial {best.number} of the search {search.name}: {values}, unconfirmed by itself"


def _write_table(search: SearchSpec, trials: Sequence[Trial], file: Path) -> None:
    """One row a trial."""
    columns = [
        "trial",
        "state",
        "origin",
        "parent",
        *search.metrics,
        *search.space,
        "runs",
        "images",
        "seconds",
        "reason",
    ]

    def save(place: Path) -> None:
        with place.open("w", newline="", encoding="utf-8") as opened:
            table = csv.writer(opened)
            table.writerow(columns)
            for trial in trials:
                values = trial.values or [""] * len(search.metrics)
                point = [trial.point.get(key, "") for key in search.space]
                parent = "" if trial.parent is None else trial.parent
                head = [trial.number, trial.state, trial.origin, parent]
                tail = [
                    " ".join(trial.runs),
                    trial.images,
                    round(trial.seconds, 1),
                    words.without_folders(trial.reason or ""),
                ]
                table.writerow([*head, *values, *point, *tail])

    atomic.write(file, save)
