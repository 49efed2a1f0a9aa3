"""What is measured of frozen features: hyper-parameters chosen on `val`, `test` looked at once, when a run has ended.

val     carved out of the labelled memory, the same images for every run
test    images of their own; only `final` reads them
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov2lab.data.loader import Pictures, as_tensor, centred
from dinov2lab.draws import Key, permutation
from dinov2lab.evaluation.health import feature_std, rankme
from dinov2lab.evaluation.knn import knn_accuracies
from dinov2lab.evaluation.linear import linear_accuracies
from dinov2lab.evaluation.retrieval import mean_average_precision
from dinov2lab.evaluation.segmentation import segmentation_mious
from dinov2lab.spec.run import EvaluationSpec

Embedding = Callable[[Pictures], Tensor]  # (rows, D) features of all pictures

PIXELS = 32  # side of the pictures whose pixels are the raw reference
HEALTH_IMAGES = 512


class Labelled(NamedTuple):
    pictures: Pictures
    labels: Tensor  # (rows,) int64


class Masked(NamedTuple):
    pictures: Pictures
    masks: Tensor  # (rows, P, P) uint8, the class of each pixel of the central square, 255 for none


class EvaluationData(NamedTuple):
    memory: Labelled | None  # none: nothing is labelled, and only health is measured
    test: Labelled | None
    unlabelled: Pictures  # training images, for health where there is no memory
    memory_masked: Masked | None = None  # none: no segmentation is asked for
    test_masked: Masked | None = None


class Choice(NamedTuple):
    """Hyper-parameters, as val chose them."""

    k: int
    lr: float | None


def pixels(pictures: Pictures) -> Tensor:
    """(rows, 3 x 32 x 32) raw pixels around 0: the reference that has learnt nothing and computes nothing."""
    return as_tensor([centred(pictures[row], PIXELS) for row in range(len(pictures))]).flatten(1) - 0.5


def pixel_patches(pictures: Pictures, px: int, patch: int) -> Tensor:
    """(rows, N, 3 x patch x patch) raw pixels of each patch."""
    images = as_tensor([centred(pictures[row], px) for row in range(len(pictures))]) - 0.5
    return F.unfold(images, patch, stride=patch).transpose(1, 2)


def held_out(labels: Tensor, fraction: float) -> NDArray[np.bool_]:
    """(rows,) which rows of the memory are val: `fraction` of each class, but at least one of two, and never all.

    Raises ValueError where no class has two images.
    """
    order = permutation(Key(0), "val", len(labels))
    out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels.numpy()):
        rows = order[labels.numpy()[order] == label]
        out[rows[: min(max(round(fraction * len(rows)), 1), len(rows) - 1)]] = True
    if not out.any():
        raise ValueError("evaluation.memory: no class has two images, so that none can be held out as val")
    return out


def health(features: Tensor) -> dict[str, float]:
    sample = features[:HEALTH_IMAGES]
    return {"health/feature_std": feature_std(sample), "health/rankme": rankme(sample)}


def look(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """During training: kNN on val and health. Never sees test."""
    if data.memory is None:
        return health(embed(data.unlabelled))
    features, labels = embed(data.memory.pictures), data.memory.labels
    return {"val/knn": max(_val_knn(features, labels, spec).values()), **health(features)}


def final(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """At the end: everything, with what val chose."""
    if data.memory is None:
        return health(embed(data.unlabelled))
    features, labels = embed(data.memory.pictures), data.memory.labels
    choice, values = choose(features, labels, spec)
    values |= health(features)
    if data.test is not None:
        values |= on_test(features, labels, embed(data.test.pictures), data.test.labels, choice, spec)
    return values


def _val_knn(features: Tensor, labels: Tensor, spec: EvaluationSpec) -> dict[int, float]:
    val = torch.from_numpy(held_out(labels, spec.val_fraction))
    return knn_accuracies(features[~val], labels[~val], features[val], labels[val], spec.knn.k, spec.knn.temperature)


def choose(features: Tensor, labels: Tensor, spec: EvaluationSpec) -> tuple[Choice, dict[str, float]]:
    """The best k and the best learning rate on val, ties to the smaller; with their accuracies there."""
    knn = _val_knn(features, labels, spec)
    k = max(sorted(knn), key=lambda k: knn[k])
    values = {"val/knn": knn[k], "choice/knn_k": float(k)}
    val = torch.from_numpy(held_out(labels, spec.val_fraction))
    if spec.retrieval:
        held = features[val], labels[val]
        values["val/retrieval"] = mean_average_precision(features[~val], labels[~val], *held)
    if spec.linear is None:
        return Choice(k, None), values
    linear = linear_accuracies(features[~val], labels[~val], features[val], labels[val], **spec.linear.model_dump())
    lr = max(sorted(linear), key=lambda lr: linear[lr])
    return Choice(k, lr), values | {"val/linear": linear[lr], "choice/linear_lr": lr}


def on_test(
    features: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, choice: Choice, spec: EvaluationSpec
) -> dict[str, float]:
    """Accuracies on test with the whole memory and the given choice."""
    knn = knn_accuracies(features, labels, test, test_labels, [choice.k], spec.knn.temperature)
    values = {"test/knn": knn[choice.k]}
    if spec.retrieval:
        values["test/retrieval"] = mean_average_precision(features, labels, test, test_labels)
    if spec.linear is not None and choice.lr is not None:
        options = spec.linear.model_dump() | {"lrs": (choice.lr,)}
        values["test/linear"] = linear_accuracies(features, labels, test, test_labels, **options)[choice.lr]
    return values


def segmentation(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """At the end: mean IoU of the linear probe, its learning rate chosen on val. `embed` gives (rows, N, D) patch tokens.

    Val is a share of the memory's masked images, the same for every run; test is looked at once.
    """
    if spec.segmentation is None or data.memory_masked is None:
        return {}
    tokens, masks = embed(data.memory_masked.pictures), data.memory_masked.masks
    options = spec.segmentation.model_dump(include={"epochs", "batch"})
    held = max(1, round(spec.val_fraction * len(tokens)))  # the images are in a random order
    val = segmentation_mious(
        tokens[held:], masks[held:], tokens[:held], masks[:held], lrs=spec.segmentation.lrs, **options
    )
    lr = max(sorted(val), key=lambda lr: val[lr])
    values = {"val/segmentation": val[lr], "choice/segmentation_lr": lr}
    if data.test_masked is not None:
        test = embed(data.test_masked.pictures), data.test_masked.masks
        values["test/segmentation"] = segmentation_mious(tokens, masks, *test, lrs=(lr,), **options)[lr]
    return values
