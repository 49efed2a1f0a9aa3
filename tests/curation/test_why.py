"""An image's fate in words: every reason, chains of copies, what is not there."""

import pytest
from curated import Lab
from memory import MemorySource, encoded, picture

from dinov2lab.curation.why import REASONS, find_manifest, why
from dinov2lab.draws import Key
from dinov2lab.spec.curation import CurationSpec, Duplicates, Leaks, Quality, Retrieve, Sample
from dinov2lab.spec.embedders import Thumbnails

DUPLICATES = Duplicates(stage="duplicates")


def test_every_fate_is_told_with_what_decided(lab, pool):
    spec = CurationSpec(leaks=Leaks(against=("memory:test",)), stages=(DUPLICATES, Sample(stage="sample", images=10)))
    folder = lab.curate(pool, spec)
    ledger = folder.table("ledger").to_pylist()
    for row in ledger:
        said = why(folder, row["path"])[0]
        assert said.startswith(f"{row['path']} fell at stage {row['stage']}, reason {row['reason']}: ")
        assert row["reason"] in REASONS
        assert not {"?", "{", "None"} & set(said.split())
    assert "copy of the evaluation image memory:test t100 (1), threshold 0.9" in why(folder, "leak/exact")[0]
    kept = folder.table("kept")["path"][0].as_py()
    assert why(folder, kept)[0] == f"{kept} is kept"


def test_a_copy_is_followed_to_what_stands_for_it_and_told_of_from_there(lab, pool):
    folder = lab.curate(pool, CurationSpec(stages=(DUPLICATES,)))
    fallen, kept = why(folder, "p03"), why(folder, "copy/bytes")
    assert "copy/bytes (1) stands for it; threshold 0.95, rule components, central first" in fallen[0]
    assert fallen[1] == "copy/bytes is kept"
    assert kept == ["copy/bytes is kept", "it stands for 2 near copies that fell: copy/pixels, p03"]


def test_what_a_filter_measured_and_who_retrieved(lab, pool):
    lab.sources["memory:queries"] = MemorySource("memory:queries", {"q": encoded(picture(8))})
    retrieve = Retrieve(stage="retrieve", queries="memory:queries", embedder=Thumbnails(), images=2)
    folder = lab.curate(pool, CurationSpec(stages=(Quality(stage="quality", min_px=37), retrieve)))
    assert "reason small: its shorter side is too short (36), 37 pixels are asked for" in why(folder, "p03")[0]
    assert "the closest is memory:queries q (" in why(folder, "blank/red")[0]


def test_mistakes_name_the_nearest(lab, pool):
    folder = lab.curate(pool, None)
    with pytest.raises(ValueError, match=r"p003: no such image in manifest \w+; did you mean p03\?"):
        why(folder, "p003")
    identity = folder.read().id
    assert find_manifest(lab.cache, identity[:6]).path == find_manifest(lab.cache, folder.path.name).path == folder.path
    with pytest.raises(ValueError, match=f"no such manifest in .*; did you mean {identity}"):
        find_manifest(lab.cache, "x" + identity[1:])


def test_without_a_name_it_is_the_latest(tmp_path, pool):
    lab = Lab(tmp_path)
    with pytest.raises(ValueError, match="no manifest here yet"):
        find_manifest(lab.cache, None)
    for seed in (0, 1):
        last = lab.curate(pool, CurationSpec(stages=(Sample(stage="sample", images=3),)), Key(seed))
    assert find_manifest(lab.cache, None).path == last.path
