"""What a job asks of Slurm: profiles from files and flags; every mistake in one line that names its place."""

from pathlib import Path

import pytest

from dinov2lab.spec.document import SpecError
from dinov2lab.spec.profile import load_profile
from dinov2lab.spec.resources import Slurm

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("experiments/slurm").mkdir(parents=True)
    Path("experiments/slurm/gpu.yaml").write_text("gpus_per_node: 1\nhours: 12\nsbatch: {mail-type: END}\n")
    return tmp_path


def test_a_file_and_flags_on_top_of_it() -> None:
    profile = load_profile("gpu", ["hours=2", "sbatch.exclude=node17", "setup=['module load cuda']"])
    assert (profile.gpus_per_node, profile.hours) == (1, 2.0)
    assert profile.sbatch == {"mail-type": "END", "exclude": "node17"}
    assert profile.setup == ("module load cuda",)
    assert profile.resources.device == "cuda"


@pytest.mark.parametrize(
    ("flags", "device", "processes"),
    [
        (("nodes=2",), "cpu", 2),
        (("nodes=2", "tasks_per_node=3"), "cpu", 6),
        (("nodes=2", "gpus_per_node=8"), "cuda", 16),
    ],
)
def test_a_run_has_a_process_for_each_task_of_its_nodes(flags: tuple[str, ...], device: str, processes: int) -> None:
    resources = load_profile(None, flags).resources
    assert (resources.device, resources.processes) == (device, processes)


def test_without_a_name_the_defaults() -> None:
    assert load_profile(None) == Slurm()
    assert load_profile(None).resources.device == "cpu"


@pytest.mark.parametrize("file", sorted((ROOT / "experiments" / "slurm").glob("*.yaml")), ids=lambda file: file.stem)
def test_those_that_come_along(file: Path) -> None:
    load_profile(str(file))


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("gpuu", (), "no Slurm profile is called 'gpuu'; did you mean gpu?"),
        ("none/gpu.yaml", (), "none/gpu.yaml: no such file"),
        (None, ("partiton=x",), "--slurm partiton=x: partiton: no such field; did you mean partition?"),
        (None, ("hours=0",), "--slurm hours=0: hours: 0 is out of range: it must be more than 0"),
        (None, ("hours=0.02",), "--slurm hours=0.02: signal_seconds 120 leaves a job of hours 0.02 too little"),
        (None, ("hours",), "--slurm hours: wants KEY=VALUE, such as hours=4"),
        (None, ("sbatch.time=3",), "--slurm sbatch.time=3: sbatch: --time is the profile's own key hours"),
        (None, ("sbatch.output=x",), "--slurm sbatch.output=x: sbatch: --output is what the launcher decides"),
        (None, ("sbatch.nice=false",), "--nice wants a word or a number, or true where it takes none"),
        (None, ('sbatch.comment="a\\n#SBATCH --uid=0"',), "--comment is empty, or no single line"),
        (None, ('partition="a\\nb"',), "partition: is empty, or no single line of printable characters"),
        (None, ("gpus_per_node=4", "tasks_per_node=2"), "tasks_per_node 2 must be gpus_per_node 4, a GPU each"),
        (None, ("sbatch.ntasks-per-node=3",), "sbatch: --ntasks-per-node is the profile's own key tasks_per_node"),
    ],
)
def test_a_mistake_is_a_line(name: str | None, flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(SpecError) as error:
        load_profile(name, flags)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_in_a_file_names_its_line() -> None:
    Path("experiments/slurm/gpu.yaml").write_text("hours: 12\ncpu: 4\n")
    with pytest.raises(SpecError, match=r"experiments/slurm/gpu.yaml:2: cpu: no such field; did you mean cpus\?"):
        load_profile("gpu")


def test_a_batch_in_parts_and_recomputing_are_the_profiles_on_a_cluster() -> None:
    resources = load_profile(None, ("micro_batches=4", "recompute=hidden", "cpus=3")).resources
    assert (resources.micro_batches, resources.recompute) == (4, "hidden")
    assert (resources.threads, resources.workers) == (3, 0)
    assert load_profile("gpu", ("cpus=3",)).resources.workers == 2
