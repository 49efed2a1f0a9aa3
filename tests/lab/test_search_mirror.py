"""A search in MLflow: a parent, a child for each run with its trial, and a second sync that adds nothing."""

from pathlib import Path
from typing import Any

import synthetic
from mlflow import MlflowClient

from dinov2lab.lab.desk import Desk
from dinov2lab.lab.search_mirror import stored, sync
from dinov2lab.store import atomic
from dinov2lab.store.trials import read_trials

ASHA = {"kind": "asha", "first": 3200, "reduction": 2}


def test_every_run_is_a_child_with_its_trial_its_state_and_its_looks(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    search, place = synthetic.search(pruner=ASHA, sampler={"kind": "random"}), synthetic.workspace(tmp_path)
    fails = lambda spec: "the loss is NaN" if spec.optim.lr > 0.02 else None
    desk = Desk(search, place, synthetic.Bench(place, paced=True, fails=fails))
    while desk.turn():
        pass
    desk.leave()
    trials = read_trials(place.search("s"))
    for planned in {run for trial in trials for run in trial.runs}:
        atomic.write_json(place.run(planned).provenance, {"started_at": 1.0, "commit": "c0", "code": "c0de"})
    report = tmp_path / "reports" / "s"
    report.mkdir(parents=True)
    (report / "index.html").write_text("<!doctype html>")
    (search,) = stored(place)
    sync(search, place, report)
    client = MlflowClient(f"sqlite:///{place.database}")
    experiment = client.get_experiment_by_name("s")
    assert experiment

    def told() -> dict[str, Any]:
        found = client.search_runs([experiment.experiment_id])
        histories = {run.info.run_id: client.get_metric_history(run.info.run_id, "val/knn") for run in found}
        return {
            run.info.run_id: (
                run.info.status,
                run.data.tags,
                [(each.step, each.value) for each in histories[run.info.run_id]],
            )
            for run in found
        }

    first = told()
    children = [each for each in first.values() if "mlflow.parentRunId" in each[1]]
    assert len(first) == len(children) + 1
    by_run = {tags["run_id"]: (status, tags, looks) for status, tags, looks in children}
    assert set(by_run) == {trial.runs[0] for trial in trials}
    for trial in trials:
        status, tags, looks = by_run[trial.runs[0]]
        assert str(trial.number) in tags["trial"].split(", ")
        assert set(trial.looks) <= set(looks)
        if trial is [each for each in trials if each.runs == trial.runs][-1]:
            assert tags["trial.state"] == trial.state
            assert status == {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}[trial.state]
    assert {trial.state for trial in trials} == {"complete", "failed", "pruned"}
    sync(search, place, report)
    assert told() == first
