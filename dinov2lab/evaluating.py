"""What `dinov2lab evaluate` does: one network, or all finished runs of a study, measured on images."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from dinov2lab import commands, terminal
from dinov2lab.spec.load import FOLDERS, SpecError, kind_of
from dinov2lab.spec.nearest import did_you_mean
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.study import Study, expand
from dinov2lab.store import atomic, studies
from dinov2lab.store.evaluation import METRICS, TIMM, Evaluation
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder

if TYPE_CHECKING:
    from dinov2lab.data.source import Roots
    from dinov2lab.lab.subject import Subject

Open = Callable[[], "Subject"]


class Wish(NamedTuple):
    """As it was typed."""

    on: Sequence[str]  # none: what the run was tested on
    memory: str | None
    metrics: Sequence[str]  # each one or several, with commas between
    px: int | None
    device: Literal["auto", "cpu", "cuda"]


def evaluate(target: str, workspace: Workspace, roots: "Roots", wish: Wish) -> list[Evaluation]:
    """Of each network that `target` names. Raises ValueError where there is none, or nothing can be measured."""
    metrics, opening = _metrics(wish), list(subjects(target, wish.px, workspace))
    from dinov2lab.lab.evaluate import asked_of, evaluate  # and torch with it: what is refused is refused at once
    from dinov2lab.lab.exam import Places

    where, found = _device(wish.device), []
    for opened in opening:
        subject = opened()
        asked = asked_of(subject, wish.on, wish.memory, metrics)
        found.append(evaluate(subject, asked, Places(workspace, roots), where))
    return found


def _metrics(wish: Wish) -> tuple[str, ...]:
    """Raises SpecError for a name that is none."""
    words = tuple(dict.fromkeys(word for each in wish.metrics for word in each.split(",") if word))
    for word in words:
        if word not in METRICS:
            near = did_you_mean(word, list(METRICS)) or f"; there are {', '.join(METRICS)}"
            raise SpecError(f"--metrics {word}: no such evaluation{near}")
    return words


class Cluster(NamedTuple):
    """What jobs ask of Slurm, as it was typed."""

    profiles: Sequence[str]
    settings: Sequence[str]
    dry_run: bool


def send(target: str, workspace: Workspace, roots: "Roots", wish: Wish, cluster: Cluster, as_json: bool) -> None:
    """To Slurm, a job for each finished run of a study: afterwards `evaluate` reads what they have measured."""
    from dinov2lab.lab import submit_evaluation
    from dinov2lab.spec.profile import load_profile

    study = _study(target, workspace)
    if study is None or wish.px is not None:
        raise SpecError(f"{target}: --launcher slurm is for the finished runs of a study; all else is evaluated here")
    if len(cluster.profiles) > 1:
        raise SpecError("--profile: the evaluations of a study have one")
    profile = load_profile(next(iter(cluster.profiles), None), cluster.settings)
    runs, asked = _finished(study, workspace), {"on": wish.on, "memory": wish.memory, "metrics": _metrics(wish)}
    order = submit_evaluation.Order(study.name, runs, asked, profile, workspace, roots)
    if cluster.dry_run:
        terminal.show_scripts(submit_evaluation.preview(order), as_json)
        return
    with atomic.locked(workspace.slurm / "lock"):
        jobs = submit_evaluation.submit(order)
    if as_json:
        terminal.say_json({"study": study.name, "runs": runs, "jobs": list(jobs)})
        return
    terminal.say(f"{terminal.plural(len(runs), 'run')} submitted, jobs {', '.join(jobs)}; afterwards the same command")
    terminal.say("  without --launcher slurm shows what they have measured")


def _device(asked: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    import torch

    return "cuda" if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()) else "cpu"


def complete(target: str, workspace: Workspace, roots: "Roots", wish: Wish) -> dict[str, dict[str, str]]:
    """Measure what the runs that `target` names have skipped, as far as it is there now; returns what each still skips.

    Runs that skipped nothing are left out. Raises ValueError.
    """
    if wish.on or wish.memory or wish.metrics or wish.px:
        raise SpecError("--skipped: measures what the recipe says; --on, --memory, --metrics and --px are for all else")
    from dinov2lab.lab.completing import complete
    from dinov2lab.lab.exam import Places

    study, places = _study(target, workspace), Places(workspace, roots)
    folders = [workspace.run(cell.run) for cell in expand(study)] if study else [commands.find_run(target, workspace)]
    left = {}
    for folder in folders:
        if (found := folder.outcome()) and found.skipped:
            later = complete(folder, places, Resources(device=_device(wish.device)))
            left[folder.path.name] = later.skipped if later else found.skipped
    return left


def show_completed(left: dict[str, dict[str, str]], as_json: bool) -> None:
    if as_json:
        terminal.say_json(left)
    elif not left:
        terminal.say("there is nothing to make up for")
    elif not any(left.values()):
        terminal.say(
            f"complete: {terminal.plural(len(left), 'run')}; a study's report has it with: dinov2lab report STUDY"
        )
    for uri, why in {uri: why for each in left.values() for uri, why in each.items()}.items():
        terminal.note(f"skipped {uri}: {why}")


def subjects(target: str, px: int | None, workspace: Workspace) -> Iterator[Open]:
    """What opens each network, one at a time: a timm model, a file, a run, or all finished runs of a study."""
    path = Path(target)
    if target.startswith(TIMM):
        yield partial(_of_timm, target.removeprefix(TIMM), px, workspace)
    elif px is not None:
        raise SpecError("--px: is for a model of timm's; a run has seen images of one size")
    elif path.is_file() and path.suffix not in (".yaml", ".yml"):
        yield partial(_of_file, path)
    elif study := _study(target, workspace):
        yield from (partial(_of_run, workspace.run(run)) for run in _finished(study, workspace))
    elif path.suffix == ".pt":
        raise SpecError(f"{target}: no such file")
    else:
        yield partial(_of_run, commands.find_run(target, workspace))


def _of_timm(name: str, px: int | None, workspace: Workspace) -> "Subject":
    from dinov2lab.lab.subject import of_timm

    return of_timm(name, px, workspace)


def _of_file(file: Path) -> "Subject":
    from dinov2lab.lab.subject import of_file

    return of_file(file)


def _of_run(folder: RunFolder) -> "Subject":
    from dinov2lab.lab.subject import of_run

    return of_run(folder)


def _finished(study: Study, workspace: Workspace) -> list[str]:
    """The runs that have a result. Raises SpecError where none has."""
    finished = [cell.run for cell in expand(study) if workspace.run(cell.run).result.exists()]
    if left := len(expand(study)) - len(finished):
        terminal.note(f"study {study.name}: {terminal.plural(left, 'run')} without a result: skipped")
    if not finished:
        raise SpecError(f"study {study.name}: no run has a result yet; dinov2lab run {study.name}")
    return finished


def _study(name: str, workspace: Workspace) -> Study | None:
    file = Path(name) if Path(name).is_file() else FOLDERS["study"] / f"{name}.yaml"
    if (file.is_file() and kind_of(file) == "study") or studies.stored(name, workspace):
        return commands.find_study(name, workspace)
    return None


def show(found: Sequence[Evaluation], as_json: bool) -> None:
    """A table for each set of images, a column for each network."""
    if as_json:
        terminal.say_json([each.model_dump(mode="json") for each in found])
        return
    for uri in dict.fromkeys(uri for each in found for uri in each.values):
        columns = [each for each in found if uri in each.values]
        names = dict.fromkeys(name for each in columns for name in sorted(each.values[uri]))
        lines = [(name, *(_cell(each.values[uri].get(name)) for each in columns)) for name in names]
        terminal.table((uri, *(each.of for each in columns)), lines, right=[each.of for each in columns])
    for what, why in dict.fromkeys((what, why) for each in found for what, why in each.skipped.items()):
        terminal.say(f"skipped {what}: {why}")


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
