"""results.tex: the arms, their means and their difference to the baseline, as a table that a paper takes with \\input."""

from collections.abc import Sequence
from typing import Any

from dinov2lab.report import words
from dinov2lab.report.statistics import Interval
from dinov2lab.report.verdict import ArmRow
from dinov2lab.spec.study import Study

SPECIAL = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "–": "--",
    "\u202f": r"\,",
}


def as_latex(study: Study, metrics: Sequence[dict[str, Any]]) -> str:
    """`metrics` as the page shows them, the deciding one first. Needs the package booktabs."""
    shown = [table for table in metrics if table["measured"]]
    level = words.level(study.decide.alpha)
    decided = words.title(study.decide.metric)
    heads = [
        "arm",
        *(words.heading(table["name"]) for table in shown),
        f"difference, {decided}",
        "effect size",
        "claim",
    ]
    rows = [_row(study, index, shown) for index in range(len(study.arms))]
    references = [_reference(place, shown) for place in range(len(shown[0]["references"]))] if shown else []
    return "\n".join(
        [
            _comment(f"{study.name}: {study.question}"),
            _comment(
                f"Means over {words.seeds(study.seeds)}, ± half of the {level} interval of that mean; differences to "
                f"{study.baseline}, rule {study.decide.rule}, {level} simultaneous."
            ),
            rf"\begin{{tabular}}{{l{'r' * len(shown)}rrl}}",
            r"\toprule",
            _line(heads),
            r"\midrule",
            *map(_line, rows),
            *([r"\midrule", *map(_line, references)] if references else []),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _row(study: Study, index: int, shown: Sequence[dict[str, Any]]) -> list[str]:
    cells = [_mean(table["name"], table["arms"][index].mean) for table in shown]
    decided: ArmRow | None = next((t["arms"][index] for t in shown if t["name"] == study.decide.metric), None)
    if decided is None or decided.judged is None:
        return [study.arms[index].name, *cells, "baseline" if study.arms[index].name == study.baseline else "–", "", ""]
    difference, metric = decided.judged.difference, study.decide.metric
    reach = f" ({words.signed_span(metric, difference.interval)})" if difference.interval else ""
    claim = decided.judged.row.claim
    return [
        study.arms[index].name,
        *cells,
        words.signed(metric, difference.estimate) + reach,
        words.effect(difference.effect),
        "" if claim == "none" else claim,
    ]


def _reference(place: int, shown: Sequence[dict[str, Any]]) -> list[str]:
    """A reference of the deciding metric, and of the others where they have one by that name and those arms."""
    wanted = shown[0]["references"][place]
    found = [
        next((row for row in table["references"] if (row.name, row.arms) == (wanted.name, wanted.arms)), None)
        for table in shown
    ]
    name = wanted.name if wanted.everywhere else f"{wanted.name} ({words.listed(wanted.arms)})"
    cells = [_mean(table["name"], row.mean) if row else "–" for table, row in zip(shown, found, strict=True)]
    return [name, *cells, "reference", "", ""]


def _mean(metric: str, mean: Any) -> str:
    reach: Interval | None = mean.interval
    half = f" ± {words.value(metric, (reach.high - reach.low) / 2)}" if reach else ""
    return words.value(metric, mean.mean) + half


def _line(cells: Sequence[str]) -> str:
    return " & ".join(_escaped(cell) for cell in cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in words.without_folders(text))


def _comment(text: str) -> str:
    return "% " + " ".join(words.without_folders(text).split())
