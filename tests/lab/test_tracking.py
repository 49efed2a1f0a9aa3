"""MLflow equals disk, each value once: with real SQLite, and with a real server in test_tracking_server.py."""

import json
import math
import multiprocessing
import random
import re
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import fabricated
import pandas as pd
import pytest
from mirrored import assert_equal_to_disk, client, finished_study, histories, on_disk, runs_of
from tiny import holder

from dinov2lab import publisher
from dinov2lab.lab import tracking
from dinov2lab.lab.sending import cut
from dinov2lab.report.render import write_report
from dinov2lab.spec.study import expand
from dinov2lab.store.folders import Workspace

SILENT = Path("no reports")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its migrations take seconds: made once, copied by each test."""
    workspace = Workspace(tmp_path_factory.mktemp("fresh"))
    tracking.sync(None, workspace, SILENT)
    assert not workspace.database.exists(), "a workspace without studies needs no database"
    tracking.prepare(fabricated.study("prepared"), workspace)
    with sqlite3.connect(workspace.database) as database:
        for table in ("tags", "runs", "experiment_tags"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM experiments WHERE experiment_id != 0")
    return workspace.database


@pytest.fixture
def workspace(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(tmp_path / "a lab's #1 ünï")
    workspace.path.mkdir()
    shutil.copy(empty_database, workspace.database)
    return workspace


def everything(workspace: Workspace) -> list[str]:
    with sqlite3.connect(workspace.database) as database:
        return list(database.iterdump())


def test_all_of_a_study_is_mirrored(workspace: Workspace, tmp_path: Path) -> None:
    study = fabricated.study()
    finished_study(workspace, study)
    fabricated.report(tmp_path / "reports", study)
    tracking.sync(study, workspace, tmp_path / "reports")

    assert_equal_to_disk(workspace, study)
    (parent,) = runs_of(workspace, study, "study").values()
    assert parent.info.run_name == study.name
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["verdict/test/knn/retrieved/low"] == 0.05
    assert not any(name.startswith("verdict/test/linear") for name in parent.data.metrics), "what is None is no number"
    assert study.question in parent.data.tags["mlflow.note.content"]
    assert "better by 10.0 points" in parent.data.tags["mlflow.note.content"]
    files = {item.path for item in client(workspace).list_artifacts(parent.info.run_id, "report")}
    assert files == {f"report/{name}" for name in ("index.html", "report.md", "results.csv", "verdict.json")}

    for cell in expand(study):
        child = runs_of(workspace, study)[cell.run]
        result = workspace.run(cell.run).outcome()
        assert result
        assert child.info.run_name == f"{cell.arm} · seed {cell.seed}"
        expected = {"study": study.name, "arm": cell.arm, "seed": str(cell.seed), "run_id": cell.run}
        expected |= {"mlflow.parentRunId": parent.info.run_id, "commit": result.commit, "code": result.code}
        assert expected.items() <= child.data.tags.items()
        assert child.data.params["optim.lr"] == "0.00566"
        assert child.data.params["curation.stages.0.images"] == str(cell.spec.curation.stages[0].images)
        assert child.data.params["optim.betas"] == "[0.9, 0.999]"
        assert child.data.params["varied.curation"] == child.data.params["arm"] == cell.arm, "no single value"
        assert child.data.metrics["final/test/knn"] == result.metrics["test/knn"]
        assert child.data.metrics["cost/seconds"] == 30.5
        (dataset,) = [used.dataset for used in child.inputs.dataset_inputs]
        assert dataset.digest == result.manifest
        assert json.loads(dataset.source) == {"uri": "toyweb:pool"}
        assert [item.path for item in client(workspace).list_artifacts(child.info.run_id, "pictures")] == [
            "pictures/prototypes.png"
        ]
        assert (child.info.status, child.info.end_time) == ("FINISHED", round(result.finished_at * 1000))
        assert child.info.start_time == fabricated.BEGAN + cell.seed * 10**6 - 5000
    assert list(workspace.artifacts.rglob("prototypes.png")), "artifacts belong to the workspace"


def test_every_number_of_a_report_is_the_one_in_mlflow(workspace: Workspace, tmp_path: Path) -> None:
    study = fabricated.study(seeds=3)
    finished_study(workspace, study)
    with workspace.run(expand(study)[0].run).vitals.open("a") as file:
        file.write('{"time": 1790000000000, "images": 0, "system/gpu_energy_joules": 9e5}\n')
    write_report(study, workspace, tmp_path / "reports" / study.name)
    tracking.sync(study, workspace, tmp_path / "reports")

    children, (parent,) = runs_of(workspace, study), runs_of(workspace, study, "study").values()
    table = pd.read_csv(tmp_path / "reports" / study.name / "results.csv")
    assert set(table.run) == set(children)
    assert table[table.metric == "cost/gpu_kwh"].value.tolist() == [0.25]
    for run, mine in table.groupby("run"):
        child, last = children[run], mine.step.max()
        finals = {f"final/{name}".replace("final/cost/", "cost/") for name in mine[mine.step == last].metric} & set(
            child.data.metrics
        )
        past = {(name, step, float(value)) for name, step, _, value in histories(workspace, child)}
        for row in mine.itertuples():
            name = row.metric if row.metric.startswith("cost/") else f"final/{row.metric}"
            if name in finals and row.step == last:
                assert child.data.metrics[name] == row.value
            else:
                assert (row.metric, row.step * fabricated.BATCH, row.value) in past
        assert len(finals) > 8
        assert all(name in child.data.metrics for name in mine.metric if name.startswith("cost/"))
    assert (tmp_path / "reports" / study.name / "index.html").read_text().count("<a href=") == 0
    assert publisher.write(study, workspace, tmp_path / "reports" / study.name), "its runs are in MLflow only now"
    page = (tmp_path / "reports" / study.name / "index.html").read_text()
    for cell in expand(study):
        place = f"#/experiments/{parent.info.experiment_id}/runs/{children[cell.run].info.run_id}"
        shown = re.findall(rf'<a href="http://127.0.0.1:5000/{place}">(.*?)</a>', page)
        assert f"<code>{cell.run}</code>" in shown
        assert f"{100 * children[cell.run].data.metrics['final/test/knn']:.1f}" in shown
    tracking.sync(study, workspace, tmp_path / "reports")
    assert not publisher.write(study, workspace, tmp_path / "reports" / study.name), "another sync changes no link"
    rows = json.loads((tmp_path / "reports" / study.name / "verdict.json").read_text())
    mirrored = {name: value for name, value in parent.data.metrics.items() if name.startswith("verdict/")}
    assert mirrored == {
        f"verdict/{row['metric']}/{row['arm']}/{end}": row[end] for row in rows for end in ("difference", "low", "high")
    }


def test_a_second_sync_adds_nothing_and_neither_does_one_without_cursors(workspace: Workspace, tmp_path: Path) -> None:
    study = fabricated.study()
    finished_study(workspace, study)
    fabricated.report(tmp_path / "reports", study)
    tracking.sync(None, workspace, tmp_path / "reports")
    before = everything(workspace)
    tracking.prepare(study, workspace)
    tracking.sync(None, workspace, tmp_path / "reports")
    assert everything(workspace) == before
    cursors = list((workspace.path / "tracking" / "cursors").iterdir())
    assert len(cursors) == 2 * 4, "of metrics and of the machine"
    for cursor in cursors:
        cursor.unlink()
    tracking.sync(study, workspace, tmp_path / "reports")
    assert everything(workspace) == before


def test_a_burnt_database_is_rebuilt(workspace: Workspace, empty_database: Path) -> None:
    study = fabricated.study()
    finished_study(workspace, study)
    tracking.sync(study, workspace, SILENT)
    moved = Workspace(workspace.path.with_name("moved"))
    shutil.copytree(workspace.path, moved.path)
    shutil.copy(empty_database, moved.database)
    tracking.sync(study, moved, SILENT)
    assert_equal_to_disk(moved, study)


def test_rows_come_as_they_are_written_and_half_a_line_waits(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    cell, waiting = expand(study)
    fabricated.start(workspace, cell, 10)
    whole = json.dumps(fabricated.rows(cell, 11, first=10)[0])
    file = workspace.run(cell.run).metrics
    with file.open("a") as half:
        half.write(whole[:40])
    tracking.sync(study, workspace, SILENT)
    assert list(runs_of(workspace, study)) == [cell.run], f"{waiting.run} waits, and is not created"
    assert (
        sum(histories(workspace, runs_of(workspace, study)[cell.run]).values()) == 80
    )  # 10 rows of 7, one look of 2, 4 of the machine with 2
    with file.open("a") as rest:
        rest.write(whole[40:] + "\n")
    fabricated.append(workspace, cell, fabricated.rows(cell, 30, first=11))
    tracking.sync(study, workspace, SILENT)
    assert histories(workspace, runs_of(workspace, study)[cell.run]) == on_disk(workspace, cell)


def test_a_damaged_database_is_a_line_that_says_what_makes_it_anew(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    finished_study(workspace, study)
    tracking.sync(study, workspace, SILENT)
    content = workspace.database.read_bytes()
    workspace.database.write_bytes(content[: len(content) // 2])
    for command in (lambda: tracking.sync(study, workspace, SILENT), lambda: tracking.pages(workspace, 5000)):
        with pytest.raises(ValueError) as error:
            command()
        assert len(str(error.value).splitlines()) == 1
        assert str(error.value).endswith(f"delete {workspace.database}, and `dinov2lab sync` makes it anew from disk")


def test_a_run_of_two_studies_is_mirrored_into_both(workspace: Workspace) -> None:
    first, second = fabricated.study("first", seeds=1), fabricated.study("second", seeds=2)
    finished_study(workspace, first)
    fabricated.remember(workspace, second)
    tracking.sync(None, workspace, SILENT)
    assert_equal_to_disk(workspace, first)
    shared = {cell.run for cell in expand(first)}
    assert set(runs_of(workspace, second)) == shared
    assert runs_of(workspace, second, "study")["second"].info.status == "SCHEDULED", "its second seed waits"


def test_numbers_that_are_none_are_kept(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    cell = expand(study)[0]
    fabricated.start(workspace, cell, 2)
    strange = {
        "step": 30,
        "images": 30,
        "time": fabricated.BEGAN + 9999,
        "loss/total": math.nan,
        "gradient/norm": math.inf,
    }
    fabricated.append(workspace, cell, [strange])
    fabricated.finish(workspace, cell, **{"test/odd": math.nan})
    tracking.sync(study, workspace, SILENT)
    child = runs_of(workspace, study)[cell.run]
    assert ("loss/total", 30, fabricated.BEGAN + 9999, "nan") in histories(workspace, child)
    assert child.data.metrics["gradient/norm"] == sys.float_info.max
    assert math.isnan(child.data.metrics["final/test/odd"])
    before = everything(workspace)
    shutil.rmtree(workspace.path / "tracking" / "cursors")
    tracking.sync(study, workspace, SILENT)
    assert everything(workspace) == before


def test_the_state_of_a_run_is_true_at_each_look(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    cell, other = expand(study)
    fabricated.start(workspace, other, 5)
    fabricated.finish(workspace, other)

    def look() -> tuple[str, str, str]:
        tracking.sync(study, workspace, SILENT)
        child = runs_of(workspace, study)[cell.run]
        parent = runs_of(workspace, study, "study")[study.name]
        return child.info.status, child.data.tags["dinov2lab.state"], parent.info.status

    fabricated.start(workspace, cell, 5)
    held = holder(workspace.run(cell.run).lock)
    assert look() == ("RUNNING", "running", "RUNNING")
    held.kill()
    held.wait()
    assert look() == ("KILLED", "killed", "SCHEDULED")
    held = holder(workspace.run(cell.run).lock)
    assert look() == ("RUNNING", "running", "RUNNING")
    fabricated.fail(workspace, cell)
    held.kill()
    held.wait()
    assert look() == ("FAILED", "failed", "FINISHED")
    child = runs_of(workspace, study)[cell.run]
    assert child.data.tags["dinov2lab.error"] == "the loss is NaN at step 70"
    fabricated.finish(workspace, cell)
    assert look() == ("FINISHED", "finished", "FINISHED")
    assert "dinov2lab.error" not in runs_of(workspace, study)[cell.run].data.tags
    assert_equal_to_disk(workspace, study)


def test_a_run_that_is_repeated_replaces_its_mirror(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    cell = expand(study)[0]
    fabricated.start(workspace, cell, 20)
    fabricated.finish(workspace, cell)
    tracking.sync(study, workspace, SILENT)
    first = runs_of(workspace, study)[cell.run].info.run_id
    shutil.rmtree(workspace.run(cell.run).path)
    fabricated.start(workspace, cell, 0)
    fabricated.append(workspace, cell, [{**row, "time": row["time"] + 86_400_000} for row in fabricated.rows(cell, 6)])
    tracking.sync(study, workspace, SILENT)
    child = runs_of(workspace, study)[cell.run]
    assert child.info.run_id != first
    assert histories(workspace, child) == on_disk(workspace, cell)
    assert "final/test/knn" not in child.data.metrics


def test_a_changed_report_is_sent_again_and_its_values_move_on(workspace: Workspace, tmp_path: Path) -> None:
    study = fabricated.study(seeds=1)
    finished_study(workspace, study)
    folder = fabricated.report(tmp_path, study)
    tracking.sync(study, workspace, tmp_path)
    verdict = json.loads((folder / "verdict.json").read_text())
    verdict[0] |= {"difference": 0.02, "words": "not separable"}
    time.sleep(0.01)
    (folder / "verdict.json").write_text(json.dumps(verdict))
    tracking.sync(study, workspace, tmp_path)
    parent = runs_of(workspace, study, "study")[study.name]
    assert parent.data.metrics["verdict/test/knn/retrieved/difference"] == 0.02
    assert "not separable" in parent.data.tags["mlflow.note.content"]
    local = client(workspace).download_artifacts(parent.info.run_id, "report/verdict.json", str(tmp_path))
    assert json.loads(Path(local).read_text()) == verdict


def test_an_unreadable_run_keeps_no_other_from_being_mirrored(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    finished_study(workspace, study)
    broken, whole = expand(study)
    with workspace.run(broken.run).metrics.open("a") as file:
        file.write("not JSON\n")
    with pytest.raises(ValueError, match=broken.run):
        tracking.sync(study, workspace, SILENT)
    assert histories(workspace, runs_of(workspace, study)[whole.run]) == on_disk(workspace, whole)
    line = tracking.try_sync(study, workspace, SILENT)
    assert line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["a+b=c", "größe_0.5-x"])
def test_names_of_arms_pass_through(workspace: Workspace, tmp_path: Path, name: str) -> None:
    study = fabricated.study(arms=("base", name), seeds=1)
    finished_study(workspace, study, count=2)
    fabricated.report(tmp_path, study)
    tracking.sync(study, workspace, tmp_path)
    assert {run.data.tags["arm"] for run in runs_of(workspace, study).values()} == {"base", name}


def test_what_is_too_long_for_mlflow_ends_in_a_mark() -> None:
    assert cut("x" * 6000, 6000) == "x" * 6000
    assert len(cut("x" * 6001, 6000)) == 6000
    assert cut("x" * 6001, 6000).endswith("(cut)")


def test_a_server_that_is_down_costs_a_line_without_the_password(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = fabricated.study(seeds=1)
    finished_study(workspace, study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:s3cret@127.0.0.1:1")
    began = time.monotonic()
    line = tracking.try_sync(study, workspace, SILENT)
    assert time.monotonic() - began < 10
    assert line
    assert re.match(r"MLflow at http://127\.0\.0\.1:1: .*refused", line)
    assert "s3cret" not in line
    with pytest.raises(tracking.TrackingError, match="127"):
        tracking.sync(study, workspace, SILENT)
    with pytest.raises(tracking.TrackingError, match="127"):
        tracking.prepare(study, workspace)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.try_sync(study, workspace, SILENT) is None
    assert_equal_to_disk(workspace, study)


def test_one_process_mirrors_at_a_time(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    finished_study(workspace, study)
    held = holder(workspace.path / "tracking" / "lock")
    line = tracking.try_sync(study, workspace, SILENT)
    assert line
    assert "another process" in line
    held.kill()
    held.wait()
    assert tracking.try_sync(study, workspace, SILENT) is None


def test_a_sync_that_runs_out_of_time_is_gone_on_with(workspace: Workspace) -> None:
    study = fabricated.study(seeds=1)
    finished_study(workspace, study, count=300)
    line = tracking.try_sync(study, workspace, SILENT, seconds=0)
    assert line
    assert "next sync" in line
    tracking.sync(study, workspace, SILENT)
    assert_equal_to_disk(workspace, study)


def test_processes_that_open_a_new_workspace_at_once_make_one_study(tmp_path: Path) -> None:
    workspace, study = Workspace(tmp_path / "new"), fabricated.study()
    fork = multiprocessing.get_context("fork")
    crowd = [fork.Process(target=tracking.prepare, args=(study, workspace)) for _ in range(4)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    assert [process.exitcode for process in crowd] == [0] * 4
    assert len(runs_of(workspace, study, "study")) == 1


def size(workspace: Workspace) -> int:
    with closing(sqlite3.connect(workspace.database, timeout=30)) as database:
        tables = ("runs", "tags", "params", "metrics")
        return sum(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)


def test_killed_at_any_moment_nothing_is_lost_or_twice(workspace: Workspace) -> None:
    study = fabricated.study()
    finished_study(workspace, study, count=200)
    total = sum(on_disk(workspace, cell).total() for cell in expand(study))
    moments = random.Random(20240229)
    fork = multiprocessing.get_context("fork")
    kills = 0
    for part in sorted(moments.uniform(0, 0.95) for _ in range(8)):
        process = fork.Process(target=tracking.sync, args=(study, workspace, SILENT))
        process.start()
        while size(workspace) < part * total and process.is_alive():
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills >= 6, "the kills came when all was done"
    tracking.sync(study, workspace, SILENT)
    assert_equal_to_disk(workspace, study)
    assert {run.info.status for run in runs_of(workspace, study).values()} == {"FINISHED"}


def test_the_pages_need_a_database_and_a_free_port(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run a study first"):
        tracking.ui(Workspace(tmp_path / "nothing"), 5000)
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="choose another"):
            tracking.ui(workspace, taken.getsockname()[1])


def test_a_quote_in_the_workspace_s_name_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes the folder that one stands in into its database in plain SQL."""
    place = tmp_path / 'it\'s "a" lab é'
    place.mkdir()
    monkeypatch.chdir(place)
    workspace, study = Workspace(Path("lab")), fabricated.study()
    finished_study(workspace, study)
    tracking.sync(study, workspace, tmp_path / "reports")
    assert_equal_to_disk(workspace, study)
