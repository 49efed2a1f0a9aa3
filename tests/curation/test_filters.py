"""An embedder that is trained in seconds, on the named images alone: for likeness of patterns, and of where they are."""

import numpy as np
import pytest
from curated import Lab, column
from memory import MemorySource, encoded, picture
from PIL import Image
from pydantic import ValidationError

from dinov2lab.curation.embed import Redrawn
from dinov2lab.curation.filters import trained
from dinov2lab.data.source import decode
from dinov2lab.spec.curation import CurationSpec, Retrieve
from dinov2lab.spec.embedders import Filters


def texture(seed: int, upright: bool) -> np.ndarray:
    """(16, 16, 3) noise that is drawn out in one direction, in a colour of its own."""
    rng = np.random.default_rng(seed)
    noise = np.repeat(rng.integers(0, 200, (16, 4, 1)), 4, axis=1) + rng.integers(0, 55, 3)
    return (noise if not upright else noise.transpose(1, 0, 2)).astype(np.uint8)


def textures(count: int, upright: bool, first: int = 0) -> np.ndarray:
    return np.stack([texture(first + seed, upright) for seed in range(count)])


def eight(**how: int) -> Filters:
    return Filters(kind="filters", train="memory:queries", **{"filters": 8} | how)


def test_pictures_of_one_texture_lie_nearer_than_those_of_one_colour():
    model = trained(np.concatenate([textures(60, upright=True), textures(60, upright=False)]), eight())
    upright, lying = model.features(textures(20, True, 500)), model.features(textures(20, False, 500))
    np.testing.assert_allclose(np.linalg.norm(upright, axis=1), 1, rtol=1e-5)
    within, across = upright @ upright.T, upright @ lying.T
    assert within[~np.eye(20, dtype=bool)].mean() > across.mean() + 0.1


def test_patterns_are_looked_for_at_the_size_and_the_steps_that_are_asked_for():
    pictures = np.repeat(np.repeat(textures(40, upright=True), 2, axis=1), 2, axis=2)  # 32 pixels a side
    fine, coarse = (trained(pictures, eight(px=32, patch=7, stride=stride)) for stride in (1, 25))
    assert fine.filters.shape == (7 * 7 * 3, 8)
    corners = pictures.copy()
    corners[:, 7:25] = corners[:, :, 7:25] = 0  # what lies between the four places that are 25 pixels apart
    np.testing.assert_array_equal(coarse._answers(corners), coarse._answers(pictures))
    assert np.abs(fine._answers(corners) - fine._answers(pictures)).max() > 0.1
    with pytest.raises(ValidationError, match="patch 7 by stride 10 is too large for px 16"):
        eight(patch=7, stride=10)


def test_a_vector_does_not_depend_on_its_company():
    pictures = textures(31, upright=True)
    model = trained(pictures, eight(filters=4))
    np.testing.assert_allclose(model.features(pictures)[20], model.features(pictures[20:21])[0], atol=1e-5)


def test_retrieval_trains_it_on_the_images_that_the_recipe_names(tmp_path):
    shown = {True: "upright", False: "lying"}
    files = lambda first, count, kinds: {
        f"{shown[kind]} {number}": encoded(Image.fromarray(texture(first + number, kind)).resize((40, 40)))
        for number in range(count)
        for kind in kinds
    }
    pool = MemorySource("memory:pool", files(0, 40, (True, False)))
    queries = MemorySource("memory:queries", files(900, 40, (True,)))
    stage = Retrieve(
        stage="retrieve",
        queries="memory:queries",
        embedder=eight(),
        rule="density",
        width=0.1,
        mirrored=True,
        images=40,
    )
    spec = CurationSpec(stages=(stage,))
    assert spec.sources() == ("memory:queries",)
    lab = Lab(tmp_path, queries)
    kept = lab.curate(pool, spec)
    assert sum(path.startswith("upright") for path in column(kept, "kept")) >= 36
    assert kept.read().parameters["sources"] == {"memory:queries": queries.fingerprint()}
    assert 0 < min(column(kept, "kept", "score")) <= 1
    queries.reads = 0
    assert lab.curate(pool, spec).path == kept.path
    assert not queries.reads


def test_choices_of_another_rule_are_refused():
    with pytest.raises(ValidationError, match="width and mirrored are those of rule: density; rule: ranks has none"):
        Retrieve(stage="retrieve", queries="q", embedder=Filters(kind="filters", train="q"), images=1, width=0.1)


def test_queries_redrawn_as_the_pool_is_are_those_of_the_pool_s_sizes_and_are_named_as_they_were(tmp_path):
    images = {f"{number}.png": encoded(picture(number, (60, 48)), "PNG") for number in range(30)}
    pool = MemorySource(
        "memory:pool", {f"p{path}": encoded(picture(int(path[:-4]), (25, 20)), "JPEG") for path in images}
    )
    queries = MemorySource("memory:queries", images)
    redrawn = Redrawn(queries, np.array([20, 24]))
    sizes = {decode(redrawn.read(row)).shape[:2] for row in range(30)}
    assert sizes == {(20, 25), (24, 30)}
    assert Redrawn(queries, np.array([24, 20])).fingerprint() == redrawn.fingerprint() != queries.fingerprint()
    back = MemorySource("memory:queries", dict(reversed(images.items())))
    assert Redrawn(back, np.array([20, 24])).read(29) == redrawn.read(0)

    stage = Retrieve(
        stage="retrieve", queries="memory:queries", embedder=eight(), rule="density", redrawn=True, images=5
    )
    lab, spec = Lab(tmp_path, queries), CurationSpec(stages=(stage,))
    witnesses = column(kept := lab.curate(pool, spec), "kept", "witness")
    assert all(witness.split(" ")[1] in images for witness in witnesses)
    assert kept.read().parameters["sources"] == {"memory:queries": queries.fingerprint()}
    plain = lab.curate(pool, spec.model_copy(update={"stages": (stage.model_copy(update={"redrawn": False}),)}))
    assert column(plain, "ledger", "score") != column(kept, "ledger", "score")
