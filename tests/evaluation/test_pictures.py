"""Components and attention as pictures, on tokens whose meaning is known."""

import numpy as np
import torch

from dinov2lab.evaluation.pictures import GAP, LEAST, attention_maps, components, pca_colours, sheet


def scene(images: int = 5, side: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, objects): an object of two halves on a ground, far from it in one direction, apart in another."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.zeros(images, side, side, dtype=torch.long)
    kind[:, 2:4, 2:3], kind[:, 2:4, 3:4] = 1, 2
    means = torch.tensor([[0.0, 0, 0, 0], [9.0, 2, 0, 0], [9.0, -2, 0, 0]])
    tokens = means[kind.flatten(1)] + 0.05 * torch.randn(images, side**2, 4, generator=generator)
    return tokens, kind


def test_the_ground_is_dark_and_one_part_has_one_colour_in_every_image() -> None:
    tokens, kind = scene()
    colours = pca_colours(tokens)
    assert colours.shape == (5, 6, 6, 3)
    assert (colours[kind == 0] == colours[0, 0, 0]).all()
    first, second = colours[kind == 1], colours[kind == 2]
    red = [part[:, 0].mean() for part in (first, second)]
    assert abs(red[0] - red[1]) > 0.8  # the halves are what differs most among objects
    assert first[:, 0].std() < 0.1
    assert torch.equal(colours, pca_colours(tokens))


def test_components_are_those_of_numpy_with_the_sign_of_the_largest_loading() -> None:
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(1)).double()
    found = components(rows, 2).numpy()
    centred = (rows - rows.mean(0)).numpy()
    values, vectors = np.linalg.eigh(centred.T @ centred)
    for place in range(2):
        vector = vectors[:, -1 - place]
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        np.testing.assert_allclose(found[:, place], centred @ vector, atol=1e-8)
    assert values[-1] > values[-2]
    assert components(rows[:, :1], 3).shape == (30, 3)


def test_each_map_has_its_own_white() -> None:
    maps = attention_maps(torch.tensor([[[0.1, 0.2, 0.4, 0.1], [0.01, 0.0, 0.0, 0.005]]]))
    assert maps.shape == (1, 2, 2, 2)
    torch.testing.assert_close(maps[0, 0], torch.tensor([[0.25, 0.5], [1.0, 0.25]]))
    torch.testing.assert_close(maps[0, 1], torch.tensor([[1.0, 0.0], [0.0, 0.5]]))


def test_a_sheet_has_a_row_for_each_image_and_columns_for_what_is_seen() -> None:
    tokens, _ = scene(3)
    images, maps = torch.rand(3, 3, 48, 48), torch.rand(3, 2, 6, 6)
    drawn = sheet(images, pca_colours(tokens), maps)
    assert drawn.shape == (3 * (LEAST + 2 * GAP), 4 * (LEAST + 2 * GAP), 3)
    assert drawn.dtype == torch.uint8
    corner = images[0, :, 0, 0].mul(255).round().to(torch.uint8)
    assert torch.equal(drawn[GAP, GAP], corner)
    assert sheet(images, pca_colours(tokens), None).shape[1] == 2 * (LEAST + 2 * GAP)
