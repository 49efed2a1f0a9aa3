"""The commands as a user calls them: on fabricated workspaces, what is printed and the exit code."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fabricated
import pytest
from tiny import holder, interruptible

from dinov2lab import terminal
from dinov2lab.cli import COMMANDS, main
from dinov2lab.data.source import Roots, open_source
from dinov2lab.progress import watching
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe, load_study
from dinov2lab.spec.study import Cell, Study, expand
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.studies import as_stored

RECIPE = """\
description: |
  Learns in minutes.
  More about it.
data: {train: "folder:images"}
optim: {steps: 400, batch: 64, warmup_steps: 10}
"""
STUDY = """\
question: |
  Does curation help?
  More about it.
base: ../experiments/small.yaml
factor: curation
baseline: uncurated
seeds: [0, 1]
metrics: [test/knn, test/linear]
decide: {metric: test/knn}
arms:
  uncurated: {curation.stages: [{stage: sample, images: 100}]}
  retrieved: {curation.stages: [{stage: sample, images: 101}]}
"""
SLURM = ("--launcher", "slurm")
ROOT = str(Path(__file__).parent.parent)
HEAVY = {"torch", "timm", "mlflow", "optuna", "pandas", "scipy", "matplotlib"}


@dataclass(frozen=True)
class Project:
    study: Study
    workspace: Workspace

    def cell(self, arm: str, seed: int) -> Cell:
        return next(cell for cell in expand(self.study) if (cell.arm, cell.seed) == (arm, seed))

    def finish(self, arm: str, seed: int) -> None:
        fabricated.start(self.workspace, self.cell(arm, seed), 400 // fabricated.LOG_EVERY)
        fabricated.finish(self.workspace, self.cell(arm, seed))
        folder = self.workspace.run(self.cell(arm, seed).run)
        source = open_source("folder:images", Roots(Path(), self.workspace.cache))
        outcome = folder.outcome()
        assert outcome
        folder.write_outcome(outcome.model_copy(update={"sources": {source.uri: source.fingerprint()}}))

    def finish_all(self) -> None:
        """As `run` leaves it."""
        for cell in expand(self.study):
            self.finish(cell.arm, cell.seed)
        atomic.write_text(self.workspace.study(self.study.name), as_stored(self.study))
        fabricated.report(Path("reports"), self.study)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    for folder in ("experiments", "ablations", "images"):
        Path(folder).mkdir()
    Path("images/one.png").write_bytes(fabricated.PNG)
    Path("experiments/small.yaml").write_text(RECIPE)
    Path("ablations/curation.yaml").write_text(STUDY)
    return Project(load_study("ablations/curation.yaml"), Workspace(Path("lab")))


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def call(project: Project, capfd: pytest.CaptureFixture[str]) -> object:
    def calling(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capfd.readouterr()
        return Said(int(end.value.code or 0), captured.out, captured.err)

    return calling


def program(*arguments: str, options: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    """The program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *options, "-m", "dinov2lab.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ROOT} | environment,
        preexec_fn=interruptible,
    )


def waited_for(lock: Path) -> bool:
    """Whether a process waits for `lock`."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{lock.stat().st_ino} " in line for line in lines)


def imported(*arguments: str) -> tuple[int, str, set[str]]:
    """The exit code, stdout and the top-level packages that a command imports."""
    process = program(*arguments, options=("-X", "importtime"))
    out, err = process.communicate(timeout=300)
    return process.returncode, out, {line.split("|")[-1].strip().split(".")[0] for line in err.splitlines()}


class TestHelp:
    def test_imports_next_to_nothing(self) -> None:
        code, out, packages = imported("--help")
        assert code == 0
        for command in ("run", "list", "status", "report", "curate", "sync", "ui"):
            assert re.search(rf"^  {command} ", out, re.MULTILINE)
        assert not packages & (HEAVY | {"rich", "pydantic", "ruamel", "numpy", "pyarrow"})

    def test_is_quick(self) -> None:
        """0.3 s of process time are promised; a loaded machine measures more, so the best of three."""
        script = (
            "import time; from dinov2lab.cli import main\ntry: main(['--help'])\nfinally: print(time.process_time())"
        )
        taken = [
            float(subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT).split()[-1])
            for _ in range(3)
        ]
        assert min(taken) < 0.3


class TestFinishedStudy:
    def test_run_prints_the_verdict_and_imports_nothing_heavy(self, project: Project) -> None:
        project.finish_all()
        before = {file: file.stat().st_mtime_ns for file in Path().rglob("*") if file.is_file()}
        code, out, packages = imported("run", "curation")
        assert code == 0
        assert out.splitlines() == [
            "Does curation help?",
            "More about it.",
            "retrieved against uncurated on test/knn: better by 10.0 points",
            "report  reports/curation/index.html",
        ]
        assert not packages & HEAVY
        assert {file: file.stat().st_mtime_ns for file in Path().rglob("*") if file.is_file()} == before

    @pytest.mark.parametrize("arguments", [("list",), ("status", "curation"), ("run", "curation", "--dry-run")])
    def test_looking_imports_nothing_heavy(self, project: Project, arguments: tuple[str, ...]) -> None:
        project.finish_all()
        code, _, packages = imported(*arguments)
        assert code == 0
        assert not packages & (HEAVY | {"pyarrow"})

    def test_json(self, project: Project, call) -> None:
        project.finish_all()
        said = json.loads(call("run", "ablations/curation.yaml", "--json").out)
        assert said["report"] == "reports/curation/index.html"
        assert [row["claim"] for row in said["verdict"]] == ["better", "none"]

    def test_changed_images_are_named_stale(self, project: Project, call) -> None:
        project.finish_all()
        assert "stale" not in call("run", "curation").err
        Path("images/two.png").write_bytes(fabricated.PNG)
        said = call("run", "curation")
        assert said.code == 0
        assert said.err == "stale: folder:images has changed since these runs read it; --rerun computes them again\n"


class TestList:
    def test_shows_names_first_lines_and_results(self, project: Project, call) -> None:
        project.finish("retrieved", 1)
        lines = [line.strip().split(maxsplit=5) for line in call("list").out.splitlines()[1:]]
        assert lines == [
            ["curation", "study", "1", "of", "4", "Does curation help?"],
            ["small", "recipe", "0", "of", "1", "Learns in minutes."],
        ]

    def test_a_broken_file_is_shown_with_its_mistake(self, project: Project, call) -> None:
        Path("ablations/zz.yaml").write_text("question: [")
        said = call("list", "--json")
        rows = {row["name"]: row for row in json.loads(said.out)}
        assert said.code == 0
        assert "broken YAML" in rows["zz"]["about"]
        assert rows["curation"]["runs"] == 4

    def test_nothing_here(self, project: Project, call) -> None:
        Path("experiments/small.yaml").unlink()
        Path("ablations/curation.yaml").unlink()
        assert call("list").out == "no studies in ./ablations and no recipes in ./experiments\n"


class TestStatus:
    def test_arms_and_seeds(self, project: Project, call) -> None:
        project.finish("uncurated", 0)
        fabricated.start(project.workspace, project.cell("uncurated", 1), 20)
        fabricated.fail(project.workspace, project.cell("uncurated", 1), "the loss is NaN")
        running = project.cell("retrieved", 0)
        fabricated.start(project.workspace, running, 8)
        held = holder(project.workspace.run(running.run).lock.resolve())
        try:
            said = call("status", "curation")
            states = {(row["arm"], row["seed"]): row for row in json.loads(call("status", "curation", "--json").out)}
        finally:
            held.kill()
            held.wait()
        table = said.out.splitlines()
        uncurated, retrieved = (next(line for line in table if line.startswith(arm)) for arm in ("unc", "ret"))
        assert re.search(r"done, val/knn 0\.\d+ +failed, 12,800 of 25,600, val/knn 0\.\d+", uncurated)
        assert re.search(r"running, 5,120 of 25,600, val/knn 0\.\d+ +waiting", retrieved)
        failed = project.cell("uncurated", 1)
        assert table[-2] == f"retrieved seed 0: run {running.run} running"
        assert table[-1] == f"uncurated seed 1: run {failed.run} failed: the loss is NaN"
        assert [states["retrieved", seed]["state"] for seed in (0, 1)] == ["running", "waiting"]

    def test_a_study_that_ran_with_overrides_is_known_by_its_name(self, project: Project, call) -> None:
        other = load_study("ablations/curation.yaml", ["seeds=[7]"])
        atomic.write_text(project.workspace.study(other.name), as_stored(other))
        assert "seed 7" in call("status", other.name).out
        assert "did you mean curation?" in call("status", "curatoin").err


class TestDryRun:
    def test_unknown_time_until_a_run_has_finished(self, project: Project, call) -> None:
        rows = json.loads(call("run", "curation", "--dry-run", "--json").out)
        assert [(row["seed"], row["arm"]) for row in rows[:2]] == [(0, "uncurated"), (0, "retrieved")]
        assert {row["seconds"] for row in rows} == {None}
        assert "4 of 4 runs to do" in call("run", "curation", "--dry-run").out
        assert "time unknown" in call("run", "curation", "--dry-run").out

    def test_time_follows_from_measured_speed_and_what_is_left(self, project: Project, call) -> None:
        project.finish("uncurated", 0)
        fabricated.start(project.workspace, project.cell("retrieved", 0), 20)  # half of it
        rows = {
            (row["arm"], row["seed"]): row for row in json.loads(call("run", "curation", "--dry-run", "--json").out)
        }
        assert (rows["uncurated", 0]["state"], rows["uncurated", 0]["images"]) == ("done", 0)
        whole, half = rows["retrieved", 1], rows["retrieved", 0]
        assert half["images"] * 2 == whole["images"] == 25600
        assert whole["seconds"] == pytest.approx(whole["flops"] * 30.5 / 4e12)
        assert half["seconds"] == pytest.approx(whole["seconds"] / 2)
        assert "3 of 4 runs to do" in call("run", "curation", "--dry-run").out

    def test_of_a_recipe(self, project: Project, call) -> None:
        rows = json.loads(call("run", "small", "--set", "seed=3", "--dry-run", "--json").out)
        assert [row["run"] for row in rows] == [run_id(load_recipe("experiments/small.yaml", ["seed=3"]))]
        assert not Path("lab").exists()


class TestRecipe:
    def test_a_finished_run_shows_its_metrics(self, project: Project, call) -> None:
        spec = load_recipe("experiments/small.yaml")
        cell = Cell("uncurated", 0, run_id(spec), spec)
        fabricated.start(project.workspace, cell)
        fabricated.finish(project.workspace, cell, **{"test/knn": 0.125})
        Path("lab/runs", cell.run, "result.json").write_text(
            Path("lab/runs", cell.run, "result.json").read_text().replace('"toyweb:pool"', '"folder:gone"')
        )
        said = call("run", "small")
        assert re.search(r"^test/knn +0\.125", said.out, re.MULTILINE)
        assert said.out.endswith(f"run  lab/runs/{cell.run}\n")
        assert "folder:gone cannot be opened any more: folder:gone" in said.err

    def test_a_failed_run_is_exit_code_1(self, project: Project, call) -> None:
        Path("images/one.png").write_bytes(b"")
        said = call(
            "run", "small", "--device", "cpu", "--set", "evaluation.memory=null", "--set", "evaluation.test=null"
        )
        assert said.code == 1
        assert "failed: " in said.err
        assert "Traceback" not in said.err

    def test_interruption_is_calm(self, project: Project) -> None:
        """Of a run that waits for another process, which computes the same."""
        lock = Workspace(Path("lab")).run(run_id(load_recipe("experiments/small.yaml"))).lock
        with atomic.locked(lock):
            process = program("run", "small", "--device", "cpu")
            deadline = time.monotonic() + 60
            while not waited_for(lock) and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            try:
                _, err = process.communicate(timeout=300)
            finally:
                process.kill()
        assert process.returncode == 130
        assert err == "stopped; the same command goes on from here\n"


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("run", "curatoin"), "no study or recipe is called 'curatoin'; did you mean curation?"),
            (("run", "ablations/nothing.yaml"), "ablations/nothing.yaml: no such file"),
            (
                ("run", "small", "--set", "optim.lrr=3"),
                "--set optim.lrr=3: optim.lrr: no such field; did you mean optim.lr?",
            ),
            (("run", "curation", "--set", "seeds=[0,1]"), "changes nothing"),
            (("status", "experiments/small.yaml"), "experiments/small.yaml: is a recipe, and a study is wanted"),
            (("curate", "ablations/curation.yaml"), "ablations/curation.yaml: is a study, and a recipe is wanted"),
            (("status",), "Missing argument 'STUDY'"),
            (("run", "small", "--device", "tpu"), "'tpu' is not one of"),
            (("run", "small", "--micro-batches", "3"), "would cut one of the 4 KoLeo groups of 32 global crops"),
            (("run", "small", "--jobs", "0"), "Invalid value for '--jobs'"),
            (("run", "small", "--jobs", "2"), "--jobs: is for a study; a recipe is one run"),
            (("run", "small", "--reports", "there"), "--reports: is for a study; a recipe has no report"),
            (("init", "there", "--hours", "2"), "--hours: is for --images"),
            (("run", "curation", "--dry-run", "--rerun"), "--rerun: --dry-run shows what is left to do"),
            (("run", "curation", *SLURM, "--nproc", "2"), "--nproc: on Slurm a profile says it"),
            (
                ("run", "curation", *SLURM, "--shard", "weights", "--micro-batches", "2"),
                "--micro-batches, --shard: on Slurm a profile says it",
            ),
            (("run", "curation", *SLURM, "--recompute", "hidden"), "--recompute: on Slurm a profile says it"),
            (("run", "curation", *SLURM, "--side-by-side", "2"), "--side-by-side: is for this machine"),
            (("run", "curation", *SLURM, "--device", "cpu"), "--device: on Slurm a profile says it"),
            (("run", "curation", *SLURM, "--jobs", "2"), "--jobs: how many runs go on at a time is the profile's"),
            (("curate", "small", *SLURM, "--search", "exact"), "--search: is for this machine"),
            (("curate", "small", "--shards", "2", "--shard", "0", "--json"), "--json: one shard shows no funnel"),
            (("evaluate", "curation", *SLURM, "--skipped"), "--skipped: is for this machine"),
            (("evaluate", "curation", *SLURM, "--device", "cpu"), "--device: on Slurm a profile says it"),
            (("search", "small", "--port", "80"), "--port: is for --dashboard"),
            (("search", "small", "--confirm-seeds", "3"), "--confirm-seeds: is for --confirm K"),
            (("rnu",), "No such command 'rnu'"),
        ],
    )
    def test_are_exit_code_2_and_no_traceback(self, call, arguments: tuple[str, ...], words: str) -> None:
        said = call(*arguments)
        assert said.code == 2
        assert words in said.err
        assert "Traceback" not in said.err
        assert not Path("lab").exists()

    def test_a_name_of_both_kinds(self, call) -> None:
        Path("experiments/curation.yaml").write_text(RECIPE)
        assert "say which, ablations/curation.yaml or experiments/curation.yaml" in call("run", "curation").err

    def test_a_workspace_that_cannot_be_is_a_line(self, project: Project, call) -> None:
        Path("file").write_text("")
        said = call("run", "small", "--device", "cpu", "--rerun", "--workspace", "file")
        assert (said.code, said.err) == (
            2,
            f"file/runs/{run_id(load_recipe('experiments/small.yaml'))}: Not a directory\n",
        )


class TestProgress:
    def test_a_log_gets_a_line_a_minute_and_one_at_the_end(
        self, project: Project, capfd: pytest.CaptureFixture[str]
    ) -> None:
        one, other = project.cell("uncurated", 0), project.cell("retrieved", 0)
        with watching([one, other], project.workspace, ("test/knn",)):
            fabricated.start(project.workspace, one, 8)
            fabricated.append(project.workspace, one, [{"step": 90, "images": 5760, "speed/images_per_second": 64.0}])
            time.sleep(2.5)
            fabricated.append(project.workspace, one, fabricated.rows(one, 40, 9))
            fabricated.finish(project.workspace, one, **{"test/knn": 0.5})
            fabricated.start(project.workspace, other, 0)
            fabricated.fail(project.workspace, other, "no images")
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 3
        assert re.fullmatch(r"uncurated seed 0   5,760 of 25,600 images   64/s   5 min left   val/knn 0\.\d+", lines[0])
        assert set(lines[1:]) == {"uncurated seed 0   finished   test/knn 0.5", "retrieved seed 0   failed: no images"}


class TestCompletion:
    def completed(self, words: str) -> list[str]:
        """What bash would offer for the last of `words`."""
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        out, err = program(_DINOV2LAB_COMPLETE="complete_bash", **asked).communicate(timeout=300)
        assert not err
        return out.split()

    def test_of_commands_options_and_names(self, project: Project) -> None:
        assert self.completed("dinov2lab sta") == ["status"]
        assert "--dry-run" in self.completed("dinov2lab run --dr")
        assert self.completed("dinov2lab run c") == ["curation"]
        assert self.completed("dinov2lab curate ") == ["small"]


class TestJson:
    """One document on stdout, and nothing else."""

    def test_of_commands_that_look(self, project: Project, call) -> None:
        project.finish_all()
        garbage = json.loads(call("gc", "--json").out)
        assert garbage["removed"] is False
        assert all(row["bytes"] >= 0 for row in garbage["leftovers"])
        assert json.loads(call("schema", "study").out)["title"] == "dinov2lab: a study"

    def test_all_schemas_are_written_where_it_is_asked_for(self, call) -> None:
        assert call("schema", "--out", "for_an_editor").code == 0
        written = {file.name for file in Path("for_an_editor").iterdir()}
        assert written == {"recipe.json", "study.json", "search.json", "profile.json"}

    def test_garbage_goes_when_that_is_asked_for(self, project: Project, call) -> None:
        half = project.workspace.runs / "0" / ".result.json.x.tmp"
        half.parent.mkdir(parents=True)
        half.write_text("{")
        assert str(half) in call("gc").out
        assert half.exists()
        assert json.loads(call("gc", "--remove", "--json").out)["removed"] is True
        assert not half.exists()

    def test_a_log_that_is_followed_ends_with_its_run(self, project: Project, call) -> None:
        project.finish("uncurated", 0)
        folder = project.workspace.run(project.cell("uncurated", 0).run)
        folder.log.write_text("one warning\n")
        assert call("logs", folder.path.name[:6], "--follow").out == "one warning\n"

    def test_of_a_report(self, project: Project, call) -> None:
        project.finish_all()
        said = json.loads(call("report", "curation", "--json").out)
        assert said["study"] == "curation"
        assert {row["arm"] for row in said["verdict"]} == {"retrieved"}

    def test_every_command_that_answers_has_it(self) -> None:
        silent = {"logs", "sync", "ui", "schema", "doctor", "init"}
        without = [
            command.__name__
            for command in COMMANDS
            if command.__name__ not in silent and "as_json" not in inspect.signature(command).parameters
        ]
        assert not without


def test_a_narrow_terminal_is_shown_every_character(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(terminal, "LOG_WIDTH", 24)
    terminal.table(("arm", "run", "images"), [("images_1600", "0123456789ab", "15,360")], right=("images",))
    shown = "".join(capsys.readouterr().out.split())
    assert "…" not in shown
    assert sorted(shown) == sorted("armrunimages" + "images_1600" + "0123456789ab" + "15,360")


def test_without_colour_a_head_is_not_bold_either(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    shown = {}
    for no in ("", "1"):
        for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": no}.items():
            monkeypatch.setenv(name, value)
        terminal.table(("arm",), [("all",)])
        shown[no] = "\x1b" in capsys.readouterr().out
    assert shown == {"": True, "1": False}


def test_more_seeds_are_for_a_study_that_has_ended(call, project: Project):
    early = call("run", "curation", "--more-seeds", "1", "--dry-run")
    assert (early.code, early.err) == (
        2,
        "--more-seeds: study curation has runs that have not ended; run it without, first\n",
    )
    recipe = call("run", "small", "--more-seeds", "1")
    assert recipe.code == 2
    assert "a recipe has one seed" in recipe.err


def test_more_seeds_are_planned_beside_those_that_are_there_and_stay(call, project: Project):
    project.finish_all()
    planned = json.loads(call("run", "curation", "--more-seeds", "1", "--dry-run", "--json").out)
    seeds = [row["seed"] for row in planned]
    arms = len(project.study.arms)
    assert seeds == [*sorted(project.study.seeds * arms), *[max(project.study.seeds) + 1] * arms]
    longer = project.study.with_more_seeds(1)
    atomic.write_text(project.workspace.study("curation"), as_stored(longer))
    assert {row["seed"] for row in json.loads(call("status", "curation", "--json").out)} == set(longer.seeds)


def test_a_study_that_has_looked_often_enough_gets_no_more_seeds(call, project: Project):
    project.finish_all()
    refused = call("run", "curation", "--more-seeds", "1", "--set", "decide.looks=1", "--dry-run")
    assert refused.code == 2
    assert "has looked at its results as often as it may" in refused.err
    assert refused.err.count("\n") == 1
