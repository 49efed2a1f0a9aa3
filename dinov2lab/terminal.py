"""What a person sees: tables and answers on stdout, notes on stderr."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dinov2lab.spec.study import Study
from dinov2lab.store.result import RunResult

if TYPE_CHECKING:
    from dinov2lab.store.garbage import Leftover
    from dinov2lab.store.manifest import Manifest

LOG_WIDTH = 200  # characters, where stdout is no terminal


def say(text: str) -> None:
    print(text, flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout; the columns named in `right` hold numbers."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in columns:
        drawn.add_column(name, justify="right" if name in right else "left", no_wrap=name in right, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    width, plain = None if sys.stdout.isatty() else LOG_WIDTH, os.environ.get("NO_COLOR")
    Console(markup=False, highlight=False, width=width, color_system=None if plain else "auto").print(drawn)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def flops(count: float) -> str:
    for prefix, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if count >= scale:
            return f"{count / scale:.3g} {prefix}FLOP"
    return f"{count:.0f} FLOP"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def metric(name: str, value: float) -> str:
    return f"{name} {value:.4g}"


def outcome_text(outcome: RunResult, finals: Sequence[str]) -> str:
    if outcome.status == "failed":
        return f"failed: {(outcome.error or 'no reason is known').strip().splitlines()[-1]}"
    said = [metric(name, outcome.metrics[name]) for name in finals if name in outcome.metrics]
    return "   ".join(["finished", *said])


# What the commands show; with `as_json`, as JSON


def say_json(value: Any) -> None:
    say(json.dumps(value, indent=1, ensure_ascii=False))


def show_listing(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        say_json(rows)
    elif rows:
        lines = [(row["name"], row["kind"], f"{row['done']} of {row['runs']}", row["about"]) for row in rows]
        table(("name", "kind", "results", "question or description"), lines, right=("results",))
    else:
        say("no studies in ./ablations and no recipes in ./experiments")


def show_states(study: Study, rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Arms and seeds, the runs that go on, and why what failed has failed."""
    if as_json:
        say_json(rows)
        return
    say(f"{study.name}: {study.question.strip()}")
    cells = {(row["arm"], row["seed"]): _state(row) for row in rows}
    lines = [(arm.name, *(cells[arm.name, seed] for seed in study.seeds)) for arm in study.arms]
    table(("arm", *(f"seed {seed}" for seed in study.seeds)), lines)
    for row in rows:
        if row["state"] in ("running", "failed", "lost"):  # whose log may be wanted
            why = f": {row['error']}" if row["error"] else ""
            say(f"{row['arm']} seed {row['seed']}: run {row['run']} {row['state']}{why}")


def _state(row: dict[str, Any]) -> str:
    latest = row["latest"]
    seen = f"{latest['images']:,} of {row['images']:,}" if row["state"] != "done" and "images" in latest else ""
    knn = metric("val/knn", latest["val/knn"]) if "val/knn" in latest else ""
    return ", ".join(filter(None, (row["state"], seen, knn)))


def show_plan(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        say_json(rows)
        return
    left = [row for row in rows if row["state"] != "done"]
    lines = [
        (row["arm"] or "-", str(row["seed"]), row["run"], row["state"])
        + ((f"{row['images']:,}", flops(row["flops"]), duration(row["seconds"])) if row in left else ("", "", ""))
        for row in rows
    ]
    table(("arm", "seed", "run", "state", "images", "cost", "time"), lines, right=("images", "cost", "time"))
    known = [row["seconds"] for row in left if row["seconds"] is not None]
    time = f"{duration(sum(known))} one after another" if len(known) == len(left) else "time unknown"
    say(f"{len(left)} of {plural(len(rows), 'run')} to do: {flops(sum(row['flops'] for row in left))}, {time}")


def show_verdict(study: Study, rows: Sequence[dict[str, Any]], report: Path, as_json: bool) -> None:
    """The comparisons on the metric that decides, in words, and where the report is."""
    page = report / "index.html"
    if as_json:
        say_json({"study": study.name, "report": str(page), "verdict": rows})
        return
    say(study.question.strip())
    for row in rows:
        if row["metric"] == study.decide.metric:
            say(f"{row['arm']} against {row['baseline']} on {row['metric']}: {row['words']}")
    say(f"report  {page}")


def show_result(result: RunResult, folder: Path, as_json: bool) -> None:
    if as_json:
        say(result.model_dump_json(indent=1))
    elif result.status == "failed":
        note(outcome_text(result, ()))
    else:
        table(("metric", "value"), [(name, f"{value:.4g}") for name, value in sorted(result.metrics.items())])
        for uri, why in result.skipped.items():
            say(f"not evaluated: {uri}: {why}")
        say(f"run  {folder}")


def show_funnel(funnel: "Sequence[Manifest]", folder: Path, as_json: bool) -> None:
    """What each stage of a curation left, and why the rest fell."""
    if as_json:
        records = [record.model_dump(mode="json") for record in funnel]
        say_json({"folder": str(folder), "id": funnel[-1].id, "funnel": records})
        return
    lines = [(each.stage, f"{each.rows:,}", counted(each.dropped), counted(each.counts)) for each in funnel]
    table(("stage", "images left", "dropped", "also"), lines, right=("images left",))
    say(f"manifest  {funnel[-1].id}  {folder}")


def show_scripts(scripts: Sequence[tuple[str, str]], as_json: bool = False) -> None:
    """What sbatch would get, one job after the other."""
    if as_json:
        say_json([{"job": what, "script": text} for what, text in scripts])
        return
    for what, text in scripts:
        say(f"\n--- {what} ---\n{text.rstrip()}")


def show_launched(
    study: Study, submitted: int, jobs: Sequence[str], states: Sequence[str], as_json: bool = False
) -> None:
    counts = {state: states.count(state) for state in ("queued", "running", "done", "failed") if state in states}
    if as_json:
        say_json({"study": study.name, "submitted": submitted, "jobs": list(jobs), "before": counts})
        return
    before = f"; before: {counted(counts)}" if counts else ""
    say(f"{plural(submitted, 'run')} submitted{f' as jobs {chr(44).join(jobs)}' if jobs else ''}{before}")
    say(f"The terminal may be closed: dinov2lab status {study.name}, and a report follows the last run")


def show_garbage(found: "Sequence[Leftover]", removed: bool, as_json: bool) -> None:
    if as_json:
        rows = [{"path": str(each.path), "why": each.why, "bytes": each.size} for each in found]
        say_json({"removed": removed, "leftovers": rows})
        return
    if found:
        lines = [(str(each.path), each.why, f"{each.size / 2**20:,.1f} MB") for each in found]
        table(("path", "what", "size"), lines, right=("size",))
    total = sum(each.size for each in found) / 2**20
    say(
        f"{total:,.1f} MB {'removed' if removed else 'that no study needs' + ('; --remove removes them' if found else '')}"
    )
