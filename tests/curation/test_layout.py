"""Colours and edges, by where they lie."""

import numpy as np

from dinov2lab.curation.layout import ANGLES, CELLS, COLOURS, layout_features


def flat(colour: int) -> np.ndarray:
    return np.full((16, 16, 3), colour, np.uint8)


def striped(axis: int) -> np.ndarray:
    return np.broadcast_to(
        np.moveaxis((np.arange(16) // 2 % 2 * 200).astype(np.uint8)[None, :, None], 1, axis), (16, 16, 3)
    )


def edges(pictures: np.ndarray) -> np.ndarray:
    return layout_features(pictures)[:, 3 * COLOURS**2 :].reshape(-1, CELLS, CELLS, ANGLES)


def test_vectors_are_of_unit_length_and_flat_pictures_have_no_edges():
    found = layout_features(np.stack([flat(10), flat(200), striped(0)]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert not edges(np.stack([flat(10), flat(200)])).any()


def test_edges_are_told_by_their_direction_and_by_their_cell():
    upright, lying = edges(np.stack([striped(1), striped(0)]))
    assert set(np.argmax(upright, -1).ravel()) == {0}
    assert set(np.argmax(lying, -1).ravel()) == {ANGLES // 2}
    corner = flat(100)
    corner[:4, :4] = striped(1)[:4, :4]
    inside = edges(corner[None])[0].sum(-1)
    assert inside[0, 0] > 0
    assert not inside[2:, 2:].any()


def test_what_is_mirrored_is_mirrored():
    rng = np.random.default_rng(0)
    pictures = np.kron(rng.integers(0, 256, (20, 8, 8, 3)), np.ones((1, 2, 2, 1))).astype(np.uint8)
    colours = layout_features(pictures)[:, : 3 * COLOURS**2].reshape(-1, COLOURS, COLOURS, 3)
    turned = layout_features(pictures[:, :, ::-1])[:, : 3 * COLOURS**2].reshape(-1, COLOURS, COLOURS, 3)
    unit = lambda rows: rows / np.sqrt((rows**2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(unit(turned), unit(colours[:, :, ::-1]), atol=1e-6)
