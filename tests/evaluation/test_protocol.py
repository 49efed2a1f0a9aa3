"""Who sees which images: val is carved out of the memory, test is looked at once, by `final` alone."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dinov2lab.data.loader import Pictures
from dinov2lab.evaluation import dense, protocol
from dinov2lab.evaluation.protocol import EvaluationData, Labelled, Seen, choose, final, held_out, look, on_test, pixels
from dinov2lab.evaluation.retrieval import mean_average_precision
from dinov2lab.spec.evaluation import Depth, EvaluationSpec, Knn, Linear, Logistic, Segmentation

SPEC = EvaluationSpec(knn=Knn(k=(1, 5, 9)), linear=Linear(lrs=(0.001, 0.1), epochs=3, batch=32))
CLASSES = 3


class Drawn:
    """Small pictures whose colour tells their class, more or less."""

    labels, classes, uri = None, (), "memory:drawn"

    def __init__(self, labels: list[int], seed: int) -> None:
        self.paths = tuple(f"{row}" for row in range(len(labels)))
        rng = np.random.default_rng(seed)
        self._pixels = [rng.integers(0, 120, (8, 8, 3)) + np.eye(3, dtype=int)[label] * 12 for label in labels]

    def read(self, index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self._pixels[index].astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    def fingerprint(self) -> str:
        return ""


def labelled(count: int, seed: int) -> Labelled:
    labels = [row % CLASSES for row in range(count)]
    return Labelled(Pictures(Drawn(labels, seed), range(count)), torch.tensor(labels))


MEMORY, TEST, TRAIN = labelled(90, 0), labelled(30, 1), labelled(20, 2).pictures


class Watched:
    """An embedding, here of pixels, that notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Pictures] = []

    def __call__(self, pictures: Pictures) -> Tensor:
        self.asked.append(pictures)
        return pixels(pictures)


# val


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=80), st.floats(0.01, 0.99))
def test_val_is_a_share_of_each_class_and_leaves_some_of_it_in_the_memory(labels, fraction):
    labels = [*labels, 4, 4]
    val = held_out(torch.tensor(labels), fraction)
    for label in set(labels):
        size, held = labels.count(label), int(val[np.array(labels) == label].sum())
        assert held <= size - 1
        assert (held >= 1) == (size > 1)
        assert abs(held - fraction * size) <= 1


def test_val_is_fixed_and_not_the_first_rows():
    labels = torch.arange(60) % 3
    assert (held_out(labels, 0.2) == held_out(labels.clone(), 0.2)).all()
    assert held_out(labels, 0.2).sum() == 12
    assert not held_out(labels, 0.2)[:12].all()


def test_no_val_image_is_in_the_memory_that_it_is_compared_with():
    """Features that tell images apart and nothing else: whoever found its own copy would be right."""
    labels = torch.arange(60) % 3
    unique = torch.eye(60)
    spec = SPEC.model_copy(update={"knn": Knn(k=(1,)), "linear": None})
    assert choose(Seen(unique, labels), spec)[1]["val/knn"] < 0.6
    assert on_test(Seen(unique, labels), Seen(unique, labels), protocol.Choice(1, None), spec) == {"knn": 1.0}


# test


def test_looks_and_choices_are_the_same_whatever_test_holds():
    other_test = Labelled(TEST.pictures, (TEST.labels + 1) % CLASSES)
    looks, finals = [], []
    for test in (TEST, other_test, None):
        data, embed = EvaluationData(MEMORY, test, TRAIN), Watched()
        looks.append(look(embed, data, SPEC))
        assert [asked is MEMORY.pictures for asked in embed.asked] == [True]
        finals.append(final(Watched(), data, SPEC))
    assert looks[0] == looks[1] == looks[2]
    chosen = [{name: value for name, value in row.items() if not name.startswith("test/")} for row in finals]
    assert chosen[0] == chosen[1] == chosen[2]
    assert finals[0]["test/knn"] != finals[1]["test/knn"]


def test_final_embeds_test_once_and_reports_it_with_what_val_chose():
    embed = Watched()
    values = final(embed, EvaluationData(MEMORY, TEST, TRAIN), SPEC)
    assert embed.asked == [MEMORY.pictures, TEST.pictures]
    assert set(values) == {
        *("val/knn", "val/linear", "test/knn", "test/linear", "choice/knn_k", "choice/linear_lr"),
        *("health/feature_std", "health/rankme", "health/uniformity", "health/alignment"),
    }
    choice = protocol.Choice(int(values["choice/knn_k"]), values["choice/linear_lr"])
    memory, test = Seen(pixels(MEMORY.pictures), MEMORY.labels), Seen(pixels(TEST.pictures), TEST.labels)
    expected = on_test(memory, test, choice, SPEC)
    assert {name: values[f"test/{name}"] for name in expected} == expected


def test_of_equal_hyper_parameters_the_smaller_is_chosen():
    rows = torch.eye(3).repeat_interleave(20, 0)
    choice, values = choose(Seen(rows, torch.arange(60) // 20), SPEC)
    assert choice == protocol.Choice(1, 0.001)
    assert values["val/knn"] == values["val/linear"] == 1.0


def test_the_choice_is_the_best_on_val():
    memory = Seen(pixels(MEMORY.pictures), MEMORY.labels)
    choice, values = choose(memory, SPEC)
    alone = [choose(memory, SPEC.model_copy(update={"knn": Knn(k=(k,))}))[1]["val/knn"] for k in (1, 5, 9)]
    assert values["val/knn"] == max(alone) > min(alone)
    assert choice.k == (1, 5, 9)[alone.index(max(alone))]


def test_without_a_linear_probe_there_is_no_linear_value():
    spec = SPEC.model_copy(update={"linear": None})
    assert not [name for name in final(Watched(), EvaluationData(MEMORY, TEST, TRAIN), spec) if "linear" in name]


# Without labels


@pytest.mark.parametrize("of", [look, final])
def test_without_labels_there_is_health_of_the_training_images_and_nothing_else(of):
    embed = Watched()
    values = of(embed, EvaluationData(None, None, TRAIN), SPEC)
    assert set(values) == {"health/feature_std", "health/rankme", "health/uniformity"}
    assert embed.asked == [TRAIN]


def test_a_memory_of_which_no_val_can_be_carved_is_named():
    alone = Labelled(labelled(3, 0).pictures, torch.arange(3))
    with pytest.raises(ValueError, match="two images"):
        look(Watched(), EvaluationData(alone, None, TRAIN), SPEC)


def test_raw_pixels_are_those_of_the_central_square_around_zero():
    rows = pixels(TEST.pictures)
    assert rows.shape == (30, 3 * 32 * 32)
    assert -0.5 <= float(rows.min()) < 0 < float(rows.max()) <= 0.5


# Segmentation and retrieval


def masked(count: int, seed: int) -> protocol.Masked:
    rng = np.random.default_rng(seed)
    return protocol.Masked(
        labelled(count, seed).pictures, torch.from_numpy(rng.integers(0, 2, (count, 8, 8), dtype=np.uint8))
    )


def test_segmentation_chooses_on_val_and_looks_at_test_once():
    spec = SPEC.model_copy(update={"segmentation": Segmentation(lrs=(1e-4, 0.1), epochs=3)})
    memory, test = masked(30, 0), masked(12, 1)
    asked = []

    def embed(pictures: Pictures) -> Tensor:
        asked.append(pictures)
        return protocol.pixel_patches(pictures, 8, 4)

    data = EvaluationData(MEMORY, TEST, TRAIN, memory, test)
    values = dense.segmentation(embed, data, spec)
    assert asked == [memory.pictures, test.pictures]
    assert set(values) == {"val/segmentation", "choice/segmentation_lr", "test/segmentation"}
    other = data._replace(test_masked=test._replace(masks=1 - test.masks))
    again = dense.segmentation(embed, other, spec)
    assert again["val/segmentation"] == values["val/segmentation"]
    assert again["choice/segmentation_lr"] == values["choice/segmentation_lr"]
    assert again["test/segmentation"] != values["test/segmentation"]


def test_what_is_not_asked_for_is_not_measured():
    assert dense.segmentation(Watched(), EvaluationData(MEMORY, TEST, TRAIN, masked(5, 0)), SPEC) == {}
    assert "test/retrieval" not in final(Watched(), EvaluationData(MEMORY, TEST, TRAIN), SPEC)


def test_retrieval_ranks_the_memory_for_test_and_its_rest_for_val():
    spec = SPEC.model_copy(update={"retrieval": True})
    values = final(Watched(), EvaluationData(MEMORY, TEST, TRAIN), spec)
    features, val = pixels(MEMORY.pictures), torch.from_numpy(held_out(MEMORY.labels, spec.val_fraction))
    rest = features[~val], MEMORY.labels[~val]
    assert values["val/retrieval"] == mean_average_precision(*rest, features[val], MEMORY.labels[val])
    assert values["test/retrieval"] == mean_average_precision(
        features, MEMORY.labels, pixels(TEST.pictures), TEST.labels
    )


def test_patches_of_pixels_are_those_of_the_picture():
    patches = protocol.pixel_patches(TEST.pictures, 8, 4)
    assert patches.shape == (30, 4, 3 * 16)
    image = torch.from_numpy(np.array(TEST.pictures[0])).permute(2, 0, 1) / 255 - 0.5
    assert torch.allclose(patches[0, 1].view(3, 4, 4), image[:, :4, 4:], atol=1e-6)


# What may be asked for beside


RICH = SPEC.model_copy(
    update={
        "knn": Knn(k=(1, 5), shots=(2, 5), tries=2),
        "linear": Linear(lrs=(0.001, 0.1), epochs=2, batch=32, blocks=(1, 4), average=(False, True)),
        "logistic": Logistic(c=(1e-3, 1.0)),
    }
)


def tokens(pictures: Pictures) -> Tensor:
    """(rows, 5, D) of patches of pixels: as good as the class tokens of blocks."""
    return protocol.pixel_patches(pictures, 8, 4)[:, [0, 1, 2, 3, 0]]


def test_all_that_is_chosen_is_chosen_on_val_whatever_test_and_shifted_sets_hold() -> None:
    noisy = protocol.Named("noisy", labelled(30, 7))
    found = [
        final(Watched(), EvaluationData(MEMORY, test, TRAIN, shifted=shifted), RICH, tokens)
        for test, shifted in ((TEST, (noisy,)), (Labelled(TEST.pictures, (TEST.labels + 1) % CLASSES), ()), (None, ()))
    ]
    chosen = [{name: value for name, value in row.items() if not name.startswith("test/")} for row in found]
    assert chosen[0] == chosen[1] == chosen[2]
    names = {"knn", "knn_2_shot", "knn_5_shot", "linear", "logistic"}
    assert {name for name in found[0] if name.startswith("test/")} == {
        *(f"test/{name}" for name in names),
        *(f"test/noisy/{name}" for name in names),
    }
    assert chosen[0]["choice/linear_blocks"] in (1, 4)
    assert chosen[0]["choice/linear_average"] in (0, 1)


def test_the_probe_is_the_best_of_its_kinds_on_val() -> None:
    memory = Seen(pixels(MEMORY.pictures), MEMORY.labels, tokens(MEMORY.pictures))
    whole = choose(memory, RICH)[1]["val/linear"]
    alone = []
    for kind in protocol.kinds(RICH):
        of = Seen(kind.of(tokens(MEMORY.pictures)), MEMORY.labels)
        alone.append(choose(of, RICH.model_copy(update={"linear": SPEC.linear.model_copy(update={"epochs": 2})}))[1])
    assert whole == max(values["val/linear"] for values in alone)
    assert len(alone) == 4


def test_a_network_without_blocks_has_its_plain_features_probed() -> None:
    plain = RICH.model_copy(update={"linear": Linear(lrs=(0.001, 0.1), epochs=2, batch=32)})
    data = EvaluationData(MEMORY, TEST, TRAIN)
    assert final(Watched(), data, RICH) == final(Watched(), data, plain)


def test_depth_chooses_on_val_and_looks_at_test_once() -> None:
    spec = SPEC.model_copy(update={"depth": Depth(lrs=(1e-4, 0.1), epochs=3, bins=8)})

    def deep(count: int, seed: int) -> protocol.Deep:
        depths = np.random.default_rng(seed).uniform(0.2, 1, (count, 8, 8)).astype(np.float32)
        return protocol.Deep(labelled(count, seed).pictures, torch.from_numpy(depths))

    memory, test = deep(30, 0), deep(12, 1)
    asked = []

    def embed(pictures: Pictures) -> Tensor:
        asked.append(pictures)
        return protocol.pixel_patches(pictures, 8, 4)

    data = EvaluationData(MEMORY, TEST, TRAIN, memory_deep=memory, test_deep=test)
    values = dense.depth(embed, data, spec)
    assert asked == [memory.pictures, test.pictures]
    assert set(values) == {"val/depth", "val/depth_order", "choice/depth_lr", "test/depth", "test/depth_order"}
    other = dense.depth(embed, data._replace(test_deep=test._replace(depths=1.2 - test.depths)), spec)
    assert {name: other[name] for name in other if "test" not in name} == {
        name: values[name] for name in values if "test" not in name
    }
    assert other["test/depth_order"] != values["test/depth_order"]


def test_a_look_at_segmentation_is_that_of_the_end_on_val_and_never_sees_test() -> None:
    spec = SPEC.model_copy(update={"segmentation": Segmentation(lrs=(1e-4, 0.1), epochs=3)})
    asked = []

    def embed(pictures: Pictures) -> Tensor:
        asked.append(pictures)
        return protocol.pixel_patches(pictures, 8, 4)

    data = EvaluationData(MEMORY, TEST, TRAIN, masked(30, 0), masked(12, 1))
    found = dense.look(embed, data, spec)
    assert asked == [data.memory_masked.pictures]
    assert found == {"val/segmentation": dense.segmentation(embed, data, spec)["val/segmentation"]}
