"""Workspace: the folder in which runs, caches and the tracking database live."""

from pathlib import Path

from dinov2lab.store.result import RunFolder


class Workspace:
    """`--workspace`, else ./lab."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path / "runs"
        self.cache = path / "cache"
        self.studies = path / "studies"  # the resolved studies that ran here, by name
        self.searches = path / "searches"  # a folder each: its trials, its storage
        self.slurm = path / "slurm"  # a folder for each launch there
        self.snapshots = path / "code"  # the package as it was when jobs were submitted
        self.evaluations = path / "evaluations"  # of networks that are no runs
        self.database = path / "mlflow.db"
        self.artifacts = path / "artifacts"

    def run(self, run: str) -> RunFolder:
        return RunFolder(self.runs / run)

    def study(self, name: str) -> Path:
        return self.studies / f"{name}.json"

    def links(self, name: str) -> Path:
        return self.path / "tracking" / "links" / f"{name}.json"

    def search(self, name: str) -> Path:
        return self.searches / name
