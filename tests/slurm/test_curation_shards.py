"""A curation cut into shards on a real Slurm: what the jobs leave is what one process leaves, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
from lab import SMALL, Lab, squeue, until

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("empty")]

RECIPE = """
data: {train: "toyweb:pool?images=400"}
curation:
  leaks: {against: ["toyweb:test?images=96"], rule: component}
  stages:
    - {stage: duplicates, embedder: {kind: copies}, threshold: 0.8}
    - stage: retrieve
      queries: "toyweb:queries?images=96"
      embedder: {kind: filters, train: "toyweb:queries?images=96", filters: 20}
      rule: density
      images: 60
"""


def said(text: str) -> dict[str, Any]:
    """The JSON, without what follows it on stderr."""
    found: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
    return found


def test_shards_on_slurm_leave_what_one_process_leaves(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (tmp_path / "experiments/shared.yaml").write_text(RECIPE)
    once = said(lab.say("curate", "shared", "--workspace", "once", "--json"))
    words = ("curate", "shared", "--shards", "2")
    assert lab.say(*words, *SMALL, "--dry-run").count("#SBATCH --array=0-1%2") == 3
    assert "2 shards submitted" in lab.say(*words, *SMALL)
    until(lambda: not squeue())
    log = "".join(file.read_text() for file in tmp_path.glob("lab/slurm/*/*.err"))
    assert "curated: " in log, log
    left = said(lab.say(*words, "--json"))
    assert left["id"] == once["id"]
    assert left["funnel"] == once["funnel"]
    places = [
        {file.name: file for file in tmp_path.glob(f"{place}/cache/embeddings/*.npy")} for place in ("once", "lab")
    ]
    assert len(places[0].keys() & places[1].keys()) >= 4
    for name in places[0].keys() & places[1].keys():
        assert places[0][name].read_bytes() == places[1][name].read_bytes()
    for table in ("kept", "ledger", "pairs"):
        one, other = (Path(each["folder"], f"{table}.parquet") for each in (once, left))
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()
