"""write_report: everything that a study left on disk, as one page, one Markdown file, one table and one verdict."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from dinov2lab.report import (
    along,
    axisplots,
    curves,
    figures,
    funnel,
    references,
    rules,
    scaling,
    tables,
    tuned,
    verdict,
    words,
)
from dinov2lab.report.curation_page import write_pages
from dinov2lab.report.latex import as_latex
from dinov2lab.report.pdf import as_pdf
from dinov2lab.report.results import write_results
from dinov2lab.report.tables import Run
from dinov2lab.report.verdict import Row
from dinov2lab.spec.study import Study
from dinov2lab.store import atomic, studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.links import links

LISTED = 400  # runs that a page tells of one by one; more are in results.csv
RINGS = 60  # seeds that a forest draws one by one
TEMPLATES = Path(__file__).parent / "templates"
MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "})


@dataclass(frozen=True)
class Report:
    path: Path  # index.html
    rows: tuple[Row, ...]  # of verdict.json
    headline: str  # the answer in a sentence or two


def write_report(
    study: Study, workspace: Workspace, out: Path, *, pool: bool = False, refresh: int | None = None
) -> Report:
    """Write index.html, report.md with figures/, results.csv, .parquet and .tex, curation/ARM.html and, last, verdict.json.

    Works at every stage of a study. `pool` compares runs of different code or data all the same; with `refresh` the page
    loads itself again after so many seconds while runs are to come. Imports no torch.
    """
    runs = tables.read_runs(study, workspace)
    view = _view(study, runs, pool) | {
        "changes": [rules.replaced(each) for each in studies.changes(study, workspace)],
        "mlflow": _addresses(runs, links(study.name, workspace)),
    }
    write_results(study, runs, out)
    pictures = _write_figures(study, view, out / "figures")
    atomic.write_text(out / "report.md", markdown().get_template("report.md.j2").render(view, pictures=pictures))
    atomic.write_text(out / "results.tex", as_latex(study, view["metrics"]))
    coming = any(run.status in ("unfinished", "not run") for run in runs)
    page = html().get_template("report.html.j2").render(view, refresh=refresh if coming else None)
    atomic.write_text(out / "index.html", page)
    write_pages(study, runs, out / "curation")
    rows = tuple(arm.judged.row for table in view["metrics"] for arm in table["arms"] if arm.judged)
    atomic.write_json(out / "verdict.json", [_plain(row) for row in rows])
    return Report(out / "index.html", rows, words.without_folders(" ".join(view["headline"])))


def _addresses(runs: Iterable[Run], known: dict[str, str]) -> dict[tuple[str, int], Markup]:
    """(arm, seed) -> the page of that run in MLflow, where it is there; escaped here, for what is in it is no folder."""
    return {(run.arm, run.seed): escape(known[run.id]) for run in runs if run.id in known}


def script() -> dict[str, Markup]:
    """The page's own script, and what its security policy knows it by: no other script runs."""
    text = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_hash": Markup(f"'sha256-{digest}'")}


def _plain(row: Row) -> dict[str, Any]:
    return asdict(row) | {"words": words.without_folders(row.words)}


def _view(study: Study, runs: tuple[Run, ...], pool: bool) -> dict[str, Any]:
    """What both templates show."""
    against = verdict.guard(study, runs, pool=pool)
    others = [metric for metric in study.metrics if metric != study.decide.metric]
    metrics = [_metric(study, runs, metric, against) for metric in (study.decide.metric, *others)]
    decided = _judged(metrics[0])
    told = [
        each.row.arm for each in decided if each.row.claim in verdict.CLAIMED
    ]  # the answer has their differences in it
    gains = references.gains(study, runs, study.decide.metric)
    origins, costs = tables.origins(runs), tables.costs(study, runs)
    return script() | {
        "study": study,
        "words": words,
        "rule": rules.RULES[study.decide.rule],
        "looks": rules.looks(study),
        "place": {arm.name: index for index, arm in enumerate(study.arms)},
        "colour": figures.colour,
        "headline": verdict.headline(study, runs, tuple(decided)),
        "mixtures": against.mixed,
        "mixed": verdict.mixed(study, {each["name"]: _judged(each) for each in metrics}, against),
        "pool": pool,
        "confounds": {arm: text for arm, text in against.unlike.items() if arm not in told},
        "labelled": tables.labelled(runs),
        "runs": runs,
        "finished": [run for run in runs if run.status == "finished"],
        "absent": [run for run in runs if run.status != "finished"],
        "skipped": tables.skipped(runs),
        "listed": LISTED,
        "most_lines": curves.MOST_LINES,
        "forest": _forest(study, decided),
        "bars": any(each.difference.interval for each in decided),
        "metrics": metrics,
        "tuning": tuned.tuning(study),
        "gains": gains,
        "learnt": references.learnt(study, gains),
        "doubtful": any(gain.difference.n > 1 and not gain.beats for gain in gains),
        "learning": curves.learning(study, runs),
        "best_looks": curves.best_looks(study, runs),
        "health": curves.health(study, runs),
        "panel": figures.panel,
        "curations": funnel.curations(study, runs),
        "costs": costs,
        **_along(study, runs, costs),
        "varies": tables.seed_varies(study),
        "origins": origins if len(origins) <= LISTED else tables.by_origin(origins),
        "environments": list(dict.fromkeys(origin.versions for origin in origins)),
    }


def _metric(study: Study, runs: tuple[Run, ...], metric: str, against: verdict.Guard) -> dict[str, Any]:
    """The table of one metric: the arms, and the reference rows."""
    return {
        "name": metric,
        "arms": verdict.arm_rows(study, runs, metric, against),
        "references": references.references(study, runs, metric),
        "measured": any(metric in run.finals for run in runs),
    }


def _along(study: Study, runs: tuple[Run, ...], costs: Sequence[tables.Cost]) -> dict[str, Any]:
    """What is along the study's axis, and what quality costs."""
    found, buys, prices = along.curves(study, runs), along.buys(study, runs, costs), along.prices(costs)
    place, metric = {arm.name: index for index, arm in enumerate(study.arms)}, study.decide.metric
    return {
        "along": [(curve, axisplots.curve(curve, place)) for curve in found],
        "possible": along.possible,
        "ahead": scaling.AHEAD,
        "buys": buys,
        "prices": {price: along.PRICES[price] for price in prices},
        "fronts": [(along.PRICES[price][0], axisplots.front(buys, metric, price, place)) for price in prices if buys],
    }


def _judged(table: dict[str, Any]) -> list[verdict.Judged]:
    return [arm.judged for arm in table["arms"] if arm.judged]


def _forest(study: Study, judged: Iterable[verdict.Judged]) -> Markup | None:
    metric, place = study.decide.metric, {arm.name: index for index, arm in enumerate(study.arms)}
    rows = [
        figures.ForestRow(
            place[each.row.arm],
            each.row.arm,
            _measured(metric, each),
            each.difference.estimate,
            each.difference.interval,
            tuple(each.seeds.values()) if len(each.seeds) <= RINGS else (),
        )
        for each in judged
        if each.difference.estimate is not None
    ]
    axis = f"paired difference, {words.title(metric)}{' (points)' if words.is_accuracy(metric) else ''}"
    return figures.forest(rows, study.baseline, axis, words.scale(metric)) if rows else None


def _measured(metric: str, judged: verdict.Judged) -> str:
    difference = judged.difference
    reach = f" ({words.signed_span(metric, difference.interval)})" if difference.interval else ""
    return words.signed(metric, difference.estimate) + reach


def _write_figures(study: Study, view: dict[str, Any], folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The figures as files that stand alone, for report.md: section -> (file name, what it shows)."""
    legend = [arm.name for arm in study.arms]
    drawn = {"forest": [("difference", "paired differences to the baseline", view["forest"])] if view["forest"] else []}
    for section in ("learning", "health"):
        drawn[section] = [
            (f"{section}-{index + 1}", panel.title, figures.panel(panel, legend))
            for index, panel in enumerate(view[section])
        ]
    drawn["along"] = [
        (f"along-{i + 1}", words.title(curve.metric), svg) for i, (curve, svg) in enumerate(view["along"])
    ]
    drawn["fronts"] = [
        (f"front-{i + 1}", f"the best for so much: {name}", svg) for i, (name, svg) in enumerate(view["fronts"])
    ]
    for name, _, svg in (figure for section in drawn.values() for figure in section):
        write_svg(folder / f"{name}.svg", svg)
        pdf = as_pdf(svg)
        atomic.write(folder / f"{name}.pdf", lambda file, pdf=pdf: file.write_bytes(pdf))  # type: ignore[misc]  # its default is bound now
    return {section: [(f"figures/{name}.svg", text) for name, text, _ in found] for section, found in drawn.items()}


def write_svg(file: Path, svg: Markup) -> None:
    """A figure as a file that stands alone."""
    style = Markup("<style>{}</style>").format(Markup((TEMPLATES / "colours.css").read_text()))
    head, _, body = svg.partition(">")
    atomic.write_text(file, f"{head}>{style}{body}\n")


def html() -> jinja2.Environment:
    return _environment(autoescape=True, finalize=lambda value: _unbroken(_portable(value)))


def markdown() -> jinja2.Environment:
    return _environment(
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else str(_portable(value)).translate(MARKDOWN),
    )


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def _unbroken(value: Any) -> Any:
    """A number and its sign of per cent stay on one line."""
    return value.replace(" %", "\u00a0%") if isinstance(value, str) and not isinstance(value, Markup) else value


def _portable(value: Any) -> Any:
    """The seam that every shown value passes: no text leaves with a folder of this machine in it."""
    return words.without_folders(value) if isinstance(value, str) and not isinstance(value, Markup) else value
