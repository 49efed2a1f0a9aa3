"""What a run's machine is at, on disk: rows that MLflow's tab of system metrics shows."""

import json
import os
import time
from pathlib import Path

import pytest

from dinov2lab.lab import vitals
from dinov2lab.store.energy import kilowatt_hours
from dinov2lab.store.result import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def rows(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in folder.vitals.read_text().splitlines()]


def test_rows_come_now_and_then_and_one_at_the_end(folder: RunFolder) -> None:
    with vitals.taken(folder, every=0.05):
        folder.metrics.write_text('{"step": 1, "images": 64}\n{"step": 2, "images": 128}\n{"step": 3')
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            pass
    found = rows(folder)
    assert len(found) >= 2
    assert found[-1]["images"] == 128, "of the last whole row"
    for row in found:
        assert 0 < row["system/system_memory_usage_percentage"] < 100
        assert row["system/process_memory_megabytes"] > 10
    assert all(-1 <= row.get("system/cpu_utilization_percentage", 0) <= 101 for row in found)
    assert sum(row.get("system/process_cpu_percentage", 0) for row in found) > 0, "it has done nothing but count"


def test_a_short_run_has_one_and_half_a_row_that_a_kill_left_is_cut_off(folder: RunFolder) -> None:
    folder.vitals.write_text('{"time": 1, "images": 0}\n{"time": 2, "ima')
    with vitals.taken(folder):
        pass
    assert [row["images"] for row in rows(folder)] == [0, 0]


def test_a_folder_that_cannot_be_written_to_ends_nothing(tmp_path: Path) -> None:
    with vitals.taken(RunFolder(tmp_path / "gone")):
        pass
    assert not (tmp_path / "gone").exists()


def test_graphics_cards_tell_what_they_can(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\nprintf '0, GPU-a, 93, 2048, 8192, 251.5\\n1, GPU-b, 5, 10, 8192, [N/A]\\n2, GPU-c, 1, 1, 1, 1\\n'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    with vitals.taken(folder):
        pass
    (row,) = rows(folder)
    joules = row.pop("system/gpu_energy_joules")
    assert 0 < joules < 251.5 * 5, "of a moment, at its one known power"
    assert kilowatt_hours(folder, {}) == {"gpu": joules / 3.6e6}
    assert {name: value for name, value in row.items() if "gpu" in name} == {
        "system/gpu_0_utilization_percentage": 93,
        "system/gpu_0_memory_usage_megabytes": 2048,
        "system/gpu_0_power_usage_watts": 251.5,
        "system/gpu_0_memory_usage_percentage": 25,
        "system/gpu_1_utilization_percentage": 5,
        "system/gpu_1_memory_usage_megabytes": 10,
        "system/gpu_1_memory_usage_percentage": 0.12,
    }


def test_the_energy_of_cpus_is_what_their_packages_counted_also_when_they_begin_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def counts(name: str, kind: str, microjoules: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        for file, text in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", 10_000_000)):
            (tmp_path / name / file).write_text(f"{text}\n")

    def all_count(first: int, second: int) -> None:
        counts("intel-rapl:0", "package-0", first)
        counts("intel-rapl:1", "package-1", second)
        counts("intel-rapl:0:0", "core", second)  # in its package's count
        counts("intel-rapl-mmio:0", "package-0", first)  # the same one again

    monkeypatch.setattr(vitals, "PACKAGES", tmp_path)
    for before, after in (((1_000_000, 9_000_000), (4_000_000, 2_000_000)), ((0, 0), (500_000, 0))):
        all_count(*before)
        with vitals.taken(folder):
            all_count(*after)
    assert [row["system/cpu_energy_joules"] for row in rows(folder)] == [6.0, 0.5]
    assert kilowatt_hours(folder, {"resources": {"processes": 1}}) == {"cpu": 6.5 / 3.6e6}
    assert kilowatt_hours(folder, {"resources": {"processes": 2}}) == {}, "the other one's machine tells nothing here"


def test_a_machine_that_tells_of_no_energy_leaves_it_unknown(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "PACKAGES", folder.path / "none")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with vitals.taken(folder):
        pass
    assert kilowatt_hours(folder, {}) == {}
    folder.vitals.write_text('{"system/cpu_energy_joules": 3.6e6}\n{"system/cpu_energy_joules": 1')
    assert kilowatt_hours(folder, {}) == {"cpu": 1.0}, "of whole rows"
    folder.vitals.write_text('{"system/cpu_energy_joules": 3.6e6}\n"system/cpu_energy_joules": 1\n')
    assert kilowatt_hours(folder, {}) == {}
    assert kilowatt_hours(RunFolder(folder.path / "nothing"), {}) == {}
