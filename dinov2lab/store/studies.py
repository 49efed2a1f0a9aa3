"""The studies that ran in a workspace: how each stands now, seeds that were added, and whether its rule was changed.

studies/NAME.json holds a study as it ran last, seeds that were added with --more-seeds included; studies/NAME.past.jsonl
holds what it was before, where its rule, or what its arms were tuned with, was changed after runs had finished.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dinov2lab.spec.search import Budget
from dinov2lab.spec.study import Decide, Found, Study, expand
from dinov2lab.spec.tuning import searches, tuned
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.trials import best_trials, is_concluded, once, read_trials


class Changed(NamedTuple):
    """A rule that a study had when some of its runs had already finished."""

    when: float  # seconds since 1970, when it was replaced
    finished: int  # runs that had a result by then
    decide: Decide
    baseline: str
    budget: Budget | None = None  # that its arms were tuned with
    per: Literal["arm", "seed"] | None = None  # what each search was for


def as_stored(study: Study) -> str:
    """The text of a workspace's studies/NAME.json."""
    return study.model_dump_json(indent=1) + "\n"


def stored(name: str, workspace: Workspace) -> Study | None:
    """The study as it ran last; none where none ran by that name. Raises ValueError for one of another version."""
    file = workspace.study(name)
    try:
        return Study.model_validate_json(file.read_bytes()) if file.is_file() else None
    except ValueError:
        raise ValueError(f"{file}: was written by another version; run the study again") from None


def as_it_stands(study: Study, workspace: Workspace) -> Study:
    """`study` as its file says, tuned as its arms were here, with the seeds that were added here to that very study, whatever
    it quotes by now.
    """
    try:
        last = stored(study.name, workspace)
    except ValueError:
        last = None
    if last and last.looked and last.before_its_looks().asks_like(tuned_here(study, workspace)):
        study = study.model_copy(update={"seeds": last.seeds, "looked": last.looked})
    return tuned_here(study, workspace)


def tuned_here(study: Study, workspace: Workspace) -> Study:
    """`study` with each arm at what its searches found, once all of them have come to their end; else as it is."""
    if not study.untuned:
        return study
    found = dict[str, Found]()
    for place, search in searches(study).items():
        trials = read_trials(workspace.search(search.name))
        best = best_trials(search, trials)
        if not best or not is_concluded(search, workspace.search(search.name)):
            return study
        found[str(place)] = Found(
            search=search.name,
            seeds=search.seeds,
            trial=best[0].number,
            point=best[0].point,
            value=(best[0].values or (math.nan,))[0],
            points=sum(trial.origin != "promoted" for trial in trials),
            images=int(sum(once(trials, "images"))),
        )
    return tuned(study, found)


def record(study: Study, workspace: Workspace) -> None:
    """Keep `study` as the one that runs now, and tell of the rule that it replaces, if results were there already."""
    with atomic.locked(workspace.studies / "lock"):
        atomic.sweep(workspace.studies)
        past = _replaced(study, workspace)
        if past:
            with past_of(study, workspace).open("a", encoding="utf-8") as file:
                sections = {"decide": past.decide, "budget": past.budget}
                plain = {name: section and section.model_dump(mode="json") for name, section in sections.items()}
                file.write(json.dumps(past._asdict() | plain) + "\n")
        atomic.write_text(workspace.study(study.name), as_stored(study))


def changes(study: Study, workspace: Workspace) -> tuple[Changed, ...]:
    """The rules that `study` had before this one, when runs had finished."""
    file = past_of(study, workspace)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    past = [json.loads(line) for line in lines if line.endswith("}")]
    known = [_read_back(each) for each in past]
    now = _replaced(study, workspace)
    return tuple(each for each in (*known, *([now] if now else ())) if _rule(each) != _rule(study))


def _read_back(plain: dict[str, Any]) -> Changed:
    budget = plain.get("budget")
    sections = {"decide": Decide.model_validate(plain["decide"]), "budget": budget and Budget.model_validate(budget)}
    return Changed(
        **({"per": "arm" if budget else None} | plain | sections)
    )  # before there was a choice, it was per arm


def finished(seeds: Sequence[int], study: Study, workspace: Workspace) -> bool:
    """Whether every run of these seeds has an outcome."""
    return all(workspace.run(cell.run).outcome() for cell in expand(study) if cell.seed in seeds)


def _replaced(study: Study, workspace: Workspace) -> Changed | None:
    try:
        last = stored(study.name, workspace)
    except ValueError:
        return None
    if last is None or _rule(last) == _rule(study):
        return None
    done = sum(workspace.run(cell.run).result.exists() for cell in expand(last))
    return Changed(time.time(), done, *_rule(last)) if done else None


def _rule(study: Study | Changed) -> tuple[Decide, str, Budget | None, Literal["arm", "seed"] | None]:
    """What may not change unseen once results are there."""
    tune = study if isinstance(study, Changed) else study.tune
    return study.decide, study.baseline, tune.budget if tune else None, tune.per if tune else None


def past_of(study: Study, workspace: Workspace) -> Path:
    return workspace.study(study.name).with_suffix(".past.jsonl")
