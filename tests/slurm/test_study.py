"""A study on a real Slurm: submitted once, whatever happens to the terminal and the source, and reported by its last job."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from lab import ONE_ARM, ROOT, SMALL, Lab, squeue, until
from tiny import RECIPE, STUDY

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The same study, run on this machine."""
    lab = Lab(tmp_path_factory.mktemp("calm"))
    lab.say("run", "path", "--jobs", "2", "--device", "cpu")
    return lab


def test_a_study_is_submitted_once_and_ends_with_its_report(empty: None, calm: Lab, tmp_path: Path) -> None:
    """In a folder whose name has what a shell would trip over; from a package that is broken while the jobs wait."""
    lab = Lab(tmp_path / 'it\'s a "lab" of $HOME é')
    assert "4 runs submitted" in lab.say("run", "path", *SMALL)
    jobs = squeue()
    edited = lab.code / "dinov2lab/lab/execute.py"
    whole = edited.read_text()
    edited.write_text("raise SystemError('edited while jobs wait')\n")
    assert "0 runs submitted; before: 4 queued" in lab.say("run", "path", *SMALL)
    assert squeue().keys() <= jobs.keys()
    assert {row["state"] for row in lab.status()} == {"queued"}
    until(lambda: {row["state"] for row in lab.status()} & {"running", "done"})
    assert "0 runs submitted" in lab.say("run", "path", *SMALL)
    until(lambda: not squeue())
    assert {row["state"] for row in lab.status()} == {"done"}
    assert lab.metrics() == calm.metrics()
    with (lab.folder / "reports/path/results.csv").open() as file:
        assert {(row["arm"], row["seed"]) for row in csv.DictReader(file)} == {
            (arm, seed) for arm in ("uncurated", "retrieved") for seed in ("0", "1")
        }
    assert (lab.folder / "lab" / "mlflow.db").exists()
    run = lab.status()[0]["run"]
    assert f"run {run} finished" in lab.say("logs", run[:6])
    assert "Does the path hold?" in lab.say("run", "path", *SMALL)
    edited.write_text(whole)
    assert_evaluated_there_and_read_here(lab)


def assert_evaluated_there_and_read_here(lab: Lab) -> None:
    words = ("evaluate", "path", "--metrics", "knn", "--on", "toyweb:test?images=96&seed=1")
    assert lab.say(*words, *SMALL, "--dry-run").count("#SBATCH --array=0-3%") == 1
    assert "4 runs submitted" in lab.say(*words, *SMALL)
    until(lambda: not squeue())
    left = {file: file.read_bytes() for file in lab.folder.glob("lab/runs/*/evaluations/*.json")}
    assert len(left) == 4
    shown = json.loads(lab.say(*words, "--json"))
    assert {each["of"] for each in shown} == {row["run"] for row in lab.status()}
    assert all(0 <= each["values"]["toyweb:test?images=96&seed=1"]["test/knn"] <= 1 for each in shown)
    assert {file: file.read_bytes() for file in left} == left
    assert "is for the finished runs of a study" in lab.say("evaluate", shown[0]["of"], *SMALL, code=2)


def test_arms_with_profiles_of_their_own_are_arrays_of_their_own(empty: None, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (tmp_path / "experiments/slurm").mkdir()
    (tmp_path / "experiments/slurm/large.yaml").write_text("cpus: 2\nhours: 0.5\n")
    text = lab.say("run", "path", *SMALL, "--profile", "retrieved=large", "--dry-run")
    assert text.count("--- runs ---") == 2
    assert text.count("#SBATCH --array=0-1%2") == 2
    assert text.count("#SBATCH --cpus-per-task=2") == 1
    assert not (tmp_path / "lab").exists()
    assert not squeue()


def test_what_slurm_would_refuse_is_refused_before_anything_is_submitted(empty: None, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (tmp_path / "experiments/slurm").mkdir()
    (tmp_path / "experiments/slurm/large.yaml").write_text("partition: nowhere\n")
    text = lab.say("run", "path", *SMALL, "--profile", "retrieved=large", code=2)
    assert text == "sbatch: error: invalid partition specified: nowhere; nothing was submitted\n"
    text = lab.say("run", "path", *SMALL, "--slurm", "sbatch.nicer=3", code=2)
    assert text == "sbatch has no option --nicer; did you mean nice?; nothing was submitted\n"
    assert not squeue()
    assert {row["state"] for row in lab.status()} == {"waiting"}


def test_cancel_ends_all_jobs_and_the_next_run_goes_on(empty: None, tmp_path: Path) -> None:
    recipe = RECIPE.replace("steps: 12", "steps: 3000").replace("every: 128", "every: 96000")
    lab = Lab(tmp_path, STUDY.split("arms:")[0].replace("[0, 1]", "[0]") + ONE_ARM, recipe)
    lab.say("run", "path", *SMALL)
    (row,) = lab.status()
    until(lambda: lab.rows(row["run"]))
    assert "2 jobs cancelled" in lab.say("cancel", "path")
    until(lambda: not squeue())
    assert lab.status()[0]["state"] == "waiting"
    assert (tmp_path / "lab/runs" / row["run"] / "checkpoint.pt").exists()
    assert "0 jobs cancelled" in lab.say("cancel", "path")
    assert "1 run submitted" in lab.say("run", "path", *SMALL)
    lab.say("cancel", "path")


def test_the_commands_of_the_guide_are_there(empty: None, tmp_path: Path) -> None:
    """Each line of docs/cluster.md that begins with dinov2lab, in a folder where the names it uses mean something."""
    lab = Lab(tmp_path)
    shutil.copytree(ROOT / "experiments/slurm", tmp_path / "experiments/slurm")
    (tmp_path / "ablations/model_size.yaml").write_text(
        STUDY.split("arms:")[0].replace("curation.stages", "model.size").replace("uncurated", "pico")
        + "arms:\n  pico: {}\n  tiny: {model.size: tiny}\n"
    )
    text = (ROOT / "docs/cluster.md").read_text()
    commands = re.findall(r"^    dinov2lab (.+?)(?:  +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 8
    run = lab.status()[0]["run"]
    for command in commands:
        words = command.replace("STUDY", "path").replace("RUN", run).replace(" -f", "").split()
        if "long" in command or "gpu" in command:  # of another cluster: its text is as far as it goes here
            words.append("--dry-run")
        lab.say(*words)
    assert not squeue()
