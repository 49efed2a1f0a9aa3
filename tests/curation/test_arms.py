"""Each stage through curate(): who stays, why the others fall, and that nothing but the images and the seed decides."""

import json

import numpy as np
import pytest
from curated import Lab, column, fates, record, without_row
from memory import MemorySource, encoded, picture
from PIL import Image

from dinov2lab.draws import Key
from dinov2lab.spec.curation import CurationSpec

SEEDS = {"embedder": {"kind": "thumbnails"}, "queries": "memory:queries"}
COLOURS = {"embedder": {"kind": "thumbnails"}}
STAGES = {
    "greedy": {"stage": "duplicates", "rule": "greedy", "threshold": 0.8},
    "semdedup": {"stage": "duplicates", "rule": "semdedup", "keep": "outlying", "clusters": 4, "threshold": 0.8},
    "quality": {"stage": "quality", "min_px": 37},
    "retrieve": {"stage": "retrieve", "per_query": 3, "collisions": "keep", **SEEDS},
    "clusters": {"stage": "clusters", "clusters": 6, "more_than": 0, "per_cluster": 3, "images": 5, **SEEDS},
    "flat_clusters": {"stage": "flat_clusters", "clusters": 5, "images": 12, **COLOURS},
    "hierarchical_clusters": {
        "stage": "hierarchical_clusters",
        "levels": [8, 3],
        "resamplings": 2,
        "images": 12,
        **COLOURS,
    },
    "inverse_density": {"stage": "inverse_density", "images": 12, "neighbours": 3, **COLOURS},
    "mixture": {
        "stage": "mixture",
        "images": 12,
        "parts": [
            {"share": 1, "stages": [{"stage": "retrieve", "images": 6, **SEEDS}]},
            {"share": 2, "stages": [{"stage": "duplicates"}]},
        ],
    },
    "control": {"stage": "control", "match": "source", "of": [{"stage": "duplicates", "threshold": 0.8}]},
}


def spec(*stages: dict, **more: object) -> CurationSpec:
    return CurationSpec.model_validate_json(json.dumps({"stages": list(stages), **more}))


@pytest.fixture
def seeded(lab: Lab) -> Lab:
    images = {f"q{seed}": encoded(picture(seed), "JPEG") for seed in (8, 9, 10)}
    lab.sources["memory:queries"] = MemorySource("memory:queries", images)
    return lab


@pytest.mark.parametrize("name", STAGES)
def test_every_image_is_kept_or_has_a_reason_and_no_order_of_rows_decides(name, seeded, pool, tmp_path):
    shuffled = pool.only(np.random.default_rng(1).permutation(pool.paths).tolist())
    folders = [seeded.curate(pool, spec(STAGES[name]))]
    folders.append(Lab(tmp_path / "other", *seeded.sources.values()).curate(shuffled, spec(STAGES[name])))
    one, two = ([without_row(folder.table(table)) for table in ("kept", "ledger")] for folder in folders)
    assert one == two
    kept, fallen = column(folders[0], "kept"), fates(folders[0])
    assert sorted([*kept, *fallen]) == sorted(pool.paths)
    assert 0 < len(kept) < len(pool.paths)
    dropped = record(folders[0]).dropped
    own = [fate["reason"] for fate in fallen.values() if fate["stage"] == STAGES[name]["stage"]]
    assert dropped == {reason: own.count(reason) for reason in sorted(set(own))}
    assert own


@pytest.mark.parametrize(
    "name", ["clusters", "flat_clusters", "hierarchical_clusters", "inverse_density", "mixture", "control"]
)
def test_another_seed_draws_others_and_as_many(name, seeded, pool):
    kept = [column(seeded.curate(pool, spec(STAGES[name]), Key(seed)), "kept") for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
    assert len(kept[0]) == len(kept[2])


def test_what_is_taken_closest_to_the_centres_knows_no_seed(seeded, pool):
    stage = STAGES["flat_clusters"] | {"pick": "closest"}
    assert seeded.curate(pool, spec(stage), Key(0)).path == seeded.curate(pool, spec(stage), Key(1)).path


def test_the_largest_copy_stays(lab):
    sizes = {"a/small": (40, 36), "b/large": (80, 72), "c/middle": (60, 54)}
    pool = MemorySource(
        "memory:x", {name: encoded(picture(5, (120, 108)).resize(size)) for name, size in sizes.items()}
    )
    folder = lab.curate(pool, spec({"stage": "duplicates", "keep": "largest"}))
    assert column(folder, "kept") == ["b/large"]
    assert {fate["witness"] for fate in fates(folder).values()} == {"b/large"}


def test_with_the_papers_rule_all_that_is_chained_to_a_leak_falls(lab):
    """A test image, its copy, and what fades from that copy into another picture."""
    ends = picture(100), picture(50)
    fading = {f"f{step}": encoded(Image.blend(*ends, step / 5)) for step in (0, 1, 2)}
    pool = MemorySource("memory:pool", {**fading, "other": encoded(picture(60))})
    leaks = {"against": ["memory:test"], "threshold": 0.95}
    by_pair = lab.curate(pool, spec(leaks=leaks))
    by_component = lab.curate(pool, spec(leaks=leaks | {"rule": "component"}))
    assert column(by_pair, "kept") == ["f2", "other"]
    assert column(by_component, "kept") == ["other"]
    fate = fates(by_component)["f2"]
    assert (fate["reason"], fate["witness"]) == ("chained_to_a_leak", "f1")
    assert record(by_component).counts["chained"] == 1
    assert column(by_component, "leaks") == column(by_pair, "leaks") == ["f0", "f1"]


def test_a_mixture_takes_its_shares_and_nobody_twice(seeded, pool):
    folder = seeded.curate(pool, spec(STAGES["mixture"]))
    counts = record(folder).counts
    assert (counts["part_1"], counts["part_2"], counts["part_2_taken_before"], counts["short"]) == (4, 8, 4, 0)
    assert record(folder).rows == 12
    reasons = {path: fate["reason"] for path, fate in fates(folder).items() if fate["stage"] == "mixture"}
    assert set(reasons.values()) == {"not_in_mixture"}


def test_who_falls_by_one_reason_in_every_part_has_fallen_by_it(seeded, pool):
    parts = [{"share": 1, "stages": [{"stage": "duplicates"}, {"stage": "sample", "images": n}]} for n in (3, 4)]
    folder = seeded.curate(pool, spec({"stage": "mixture", "images": 6, "parts": parts}))
    alone = seeded.curate(pool, spec({"stage": "duplicates"}))
    witness = {path: fate["witness"] for path, fate in fates(alone).items() if fate["reason"] == "duplicate"}
    fallen = {path: fate for path, fate in fates(folder).items() if fate["reason"] == "duplicate"}
    assert {path: fate["witness"] for path, fate in fallen.items()} == witness
    assert record(folder).dropped["duplicate"] == len(witness)


def test_controls_are_of_the_size_and_the_sources_of_what_they_match(seeded, pool):
    of = [{"stage": "duplicates", "threshold": 0.8}]
    matched = column(seeded.curate(pool, spec(*of)), "kept")
    by_size, by_source = (
        column(seeded.curate(pool, spec({"stage": "control", "of": of, "match": match})), "kept")
        for match in ("size", "source")
    )
    sources = [sorted(path.split("/")[0] if "/" in path else "" for path in kept) for kept in (matched, by_source)]
    assert sources[0] == sources[1]
    assert len(by_size) == len(matched)
    assert by_size != matched != by_source


def test_measures_are_taken_once(seeded, pool):
    seeded.curate(pool, spec(STAGES["quality"]))
    reads = pool.reads
    folder = seeded.curate(pool, spec(STAGES["quality"] | {"min_px": 41}))
    assert pool.reads == reads
    assert {fate["score"] for fate in fates(folder).values() if fate["reason"] == "small"} >= {36.0, 40.0}
