"""What sbatch is told of a profile, without a Slurm."""

from pathlib import Path

from dinov2lab.lab import submit
from dinov2lab.spec.profile import load_profile
from dinov2lab.store.submission import Launch


def test_each_key_of_a_profile_reaches_sbatch(tmp_path: Path) -> None:
    keys = (
        "partition=p",
        "account=a",
        "qos=q",
        "constraint=c",
        "nodes=2",
        "gpus_per_node=4",
        "cpus=3",
        "memory_gb=1.5",
    )
    more = ("hours=2", "parallel=1", "signal_seconds=90", "setup=['module load cuda']", "sbatch.mail-type=END")
    part = submit.Part("runs", load_profile(None, (*keys, *more)), str, {"a": {}, "b": {}})
    text = submit.executor(part, Launch(tmp_path / "study.0"), tmp_path / "code", ["12", "13"]).text(2)
    asked = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in text.splitlines() if "#SBATCH" in line)
    wanted = {
        "partition": "p",
        "account": "a",
        "qos": "q",
        "constraint": "c",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "3",
        "mem": "1536M",
        "time": "120",
        "array": "0-1%1",
        "signal": "USR2@90",
        "mail-type": "END",
        "dependency": "afterany:12:13",
    }
    assert wanted.items() <= asked.items()
    assert "module load cuda" in text.splitlines()
