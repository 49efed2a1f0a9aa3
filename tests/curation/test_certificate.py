"""The leak certificate: what is left of near copies of evaluation images, against what a stage dropped."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from memory import MemorySource

from dinov2lab.curation.certificate import sweep
from dinov2lab.curation.pipeline import certify, curate
from dinov2lab.draws import Key
from dinov2lab.spec.curation import CurationSpec, Leaks
from dinov2lab.store.manifest import ManifestFolder


def never(*_: object) -> None:
    raise AssertionError("no network was asked for")


def certified(place: Path, pool: MemorySource, references: MemorySource, spec: CurationSpec | None) -> ManifestFolder:
    handed = {"open": {references.uri: references}.__getitem__, "embed": never, "cache": place / "cache" / "manifests"}
    folder = curate(pool, spec, Key(0), **handed)
    certify(folder, pool, spec, [references.uri], **handed)
    return folder


def test_an_uncurated_manifest_has_its_leaks_counted_and_named(tmp_path, pool, references):
    folder = certified(tmp_path, pool, references, None)
    record = json.loads((folder.path / "certificate.json").read_text())
    assert record["images"] == folder.table("kept").num_rows
    (only,) = record["sets"]
    assert (only["set"], only["images"]) == ("memory:test", 10)
    assert [(each["threshold"], each["images"]) for each in only["found"]] == [
        (0.8, 3), (0.85, 3), (0.9, 3), (0.95, 3), (1.0, 1),
    ]  # fmt: skip
    pairs = {(row["path"], row["reference"]) for row in pq.read_table(folder.path / "certificate.parquet").to_pylist()}
    assert pairs == {("leak/exact", "t100"), ("leak/jpeg", "t101"), ("leak/mirrored", "t102")}


def test_what_the_leaks_stage_dropped_is_not_left(tmp_path, pool, references):
    spec = CurationSpec(leaks=Leaks(against=("memory:test",)))
    folder = certified(tmp_path, pool, references, spec)
    (only,) = json.loads((folder.path / "certificate.json").read_text())["sets"]
    assert all(each["images"] == 0 for each in only["found"])


def test_one_search_serves_all_manifests_of_a_pool(tmp_path, pool, references):
    certified(tmp_path, pool, references, None)
    folders = len(list((tmp_path / "cache" / "manifests").glob("*/manifest.json")))
    certified(tmp_path, pool, references, None)
    assert (
        len(list((tmp_path / "cache" / "manifests").glob("*/manifest.json"))) == folders == 3
    )  # two as read, and the pairs


@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.7, 0.97, 1.0])
def test_a_sweep_rises_within_bounds_and_holds_its_threshold(threshold):
    values = sweep(threshold)
    assert list(values) == sorted(set(values))
    assert values[0] >= 0
    assert values[-1] == 1
    assert threshold in values
