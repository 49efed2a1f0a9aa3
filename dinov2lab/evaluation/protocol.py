"""What is measured of frozen features: hyper-parameters chosen on `val`, `test` looked at once, when a run has ended.

val     carved out of the labelled memory, the same images for every run
test    images of their own; only `final` reads them
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov2lab.data.loader import Pictures, as_tensor, centred
from dinov2lab.data.revisited import Truth
from dinov2lab.draws import Key, permutation
from dinov2lab.evaluation.copies import copies_found
from dinov2lab.evaluation.health import alignment, feature_std, rankme, uniformity
from dinov2lab.evaluation.knn import few_shot_accuracies, knn_accuracies
from dinov2lab.evaluation.linear import Kind, linear_accuracies
from dinov2lab.evaluation.logistic import logistic_accuracies
from dinov2lab.evaluation.retrieval import mean_average_precision
from dinov2lab.evaluation.revisited import revisited_maps
from dinov2lab.spec.evaluation import EvaluationSpec

Embedding = Callable[[Pictures], Tensor]  # features of all pictures, a row each

T = TypeVar("T", int, float, tuple[Kind, float])

PIXELS = 32  # side of the pictures whose pixels are the raw reference
HEALTH_IMAGES = 512


class Labelled(NamedTuple):
    pictures: Pictures
    labels: Tensor  # (rows,) int64


class Masked(NamedTuple):
    pictures: Pictures
    masks: Tensor  # (rows, P, P) uint8, the class of each pixel of the central square, 255 for none


class Deep(NamedTuple):
    pictures: Pictures
    depths: Tensor  # (rows, P, P) of each pixel of the central square, 0 where none is known


class Copied(NamedTuple):
    gallery: Pictures
    queries: Pictures
    originals: Tensor  # (rows,) for each query the place of its original in the gallery, -1 for none


class Revisited(NamedTuple):
    gallery: Pictures
    queries: Pictures
    truths: tuple[Truth, ...]


class Named(NamedTuple):
    name: str
    images: Labelled


class EvaluationData(NamedTuple):
    memory: Labelled | None  # none: nothing is labelled, and only health is measured
    test: Labelled | None
    unlabelled: Pictures  # training images, for health where there is no memory
    memory_masked: Masked | None = None  # none: no segmentation is asked for
    test_masked: Masked | None = None
    memory_deep: Deep | None = None
    test_deep: Deep | None = None
    copied: Copied | None = None
    revisited: Revisited | None = None
    shifted: tuple[Named, ...] = ()


class Eyes(NamedTuple):
    """How a network is seen."""

    image: Embedding  # (rows, D)
    patches: Embedding  # (rows, N, D)
    blocks: Embedding | None  # (rows, L + 1, D), see linear.Kind


class Choice(NamedTuple):
    """Hyper-parameters, as val chose them."""

    k: int
    lr: float | None
    kind: Kind = Kind()
    c: float | None = None  # of logistic regression
    shots: tuple[tuple[int, int], ...] = ()  # for each few-shot memory, its k


class Seen(NamedTuple):
    """Labelled images as a network sees them; `blocks` where linear probes read more than the class token."""

    features: Tensor  # (rows, D)
    labels: Tensor  # (rows,)
    blocks: Tensor | None = None  # (rows, L + 1, D)

    def rows(self, chosen: Tensor) -> "Seen":
        return Seen(
            self.features[chosen], self.labels[chosen], self.blocks[chosen] if self.blocks is not None else None
        )

    def of(self, kind: Kind) -> Tensor:
        return self.features if self.blocks is None else kind.of(self.blocks)


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


def health(features: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    sample = features[:HEALTH_IMAGES]
    values = {"feature_std": feature_std(sample), "rankme": rankme(sample), "uniformity": uniformity(sample)}
    if labels is not None and (close := alignment(sample, labels[:HEALTH_IMAGES])) is not None:
        values["alignment"] = close
    return {f"health/{name}": value for name, value in values.items()}


def look(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """During training: kNN on val and health. Never sees test."""
    if data.memory is None:
        return health(embed(data.unlabelled))
    seen = Seen(embed(data.memory.pictures), data.memory.labels)
    rest, val = _parted(seen, spec)
    return {"val/knn": max(_knn(rest, val, spec.knn.k, spec).values()), **health(*seen[:2])}


def final(
    embed: Embedding, data: EvaluationData, spec: EvaluationSpec, blocks: Embedding | None = None
) -> dict[str, float]:
    """At the end: everything about whole images, with what val chose."""
    if data.memory is None:
        return health(embed(data.unlabelled))
    wide = blocks if spec.linear is not None and len(kinds(spec)) > 1 else None

    def seen(images: Labelled) -> Seen:
        return Seen(embed(images.pictures), images.labels, wide(images.pictures) if wide else None)

    memory = seen(data.memory)
    choice, values = choose(memory, spec)
    values |= health(*memory[:2])
    if data.test is not None:
        values |= {f"test/{name}": value for name, value in on_test(memory, seen(data.test), choice, spec).items()}
    for name, images in data.shifted:
        found = on_test(memory, seen(images), choice, spec)
        values |= {f"test/{name}/{what}": value for what, value in found.items()}
    return values


def copies(embed: Embedding, data: EvaluationData) -> dict[str, float]:
    """Nothing is chosen for it, so that it has no val."""
    if data.copied is None:
        return {}
    gallery, queries, originals = data.copied
    found = copies_found(embed(gallery), embed(queries), originals)
    return {"test/copies": found.micro_ap, "test/copies_recall": found.recall}


def revisited(embed: Embedding, data: EvaluationData) -> dict[str, float]:
    """Nothing is chosen for it, so that it has no val."""
    if data.revisited is None:
        return {}
    gallery, queries, truths = data.revisited
    found = revisited_maps(embed(gallery), embed(queries), truths)
    return {f"test/revisited_{setup}": value for setup, value in found.items()}


def kinds(spec: EvaluationSpec) -> list[Kind]:
    """The plainest first."""
    asked = spec.linear
    return [Kind(n, mean) for n in sorted(asked.blocks) for mean in sorted(asked.average)] if asked else []


def _parted(memory: Seen, spec: EvaluationSpec) -> tuple[Seen, Seen]:
    """(what is left of the memory, val)."""
    val = torch.from_numpy(held_out(memory.labels, spec.val_fraction))
    return memory.rows(~val), memory.rows(val)


def _knn(memory: Seen, asked: Seen, ks: Sequence[int], spec: EvaluationSpec) -> dict[int, float]:
    return knn_accuracies(*memory[:2], *asked[:2], ks, spec.knn.temperature)


def _few(
    memory: Seen, asked: Seen, shots: Sequence[int], ks: Sequence[int], spec: EvaluationSpec
) -> dict[int, dict[int, float]]:
    options: dict[str, Any] = {"tries": spec.knn.tries, "ks": ks, "temperature": spec.knn.temperature}
    return few_shot_accuracies(*memory[:2], *asked[:2], shots=shots, **options)


def _linear(memory: Seen, asked: Seen, lrs: Sequence[float], kind: Kind, spec: EvaluationSpec) -> dict[float, float]:
    assert spec.linear is not None
    features, labels = memory.of(kind), memory.labels
    options: dict[str, Any] = {"lrs": lrs, "epochs": spec.linear.epochs, "batch": spec.linear.batch}
    return linear_accuracies(features, labels, asked.of(kind), asked.labels, **options)


def best(found: Mapping[T, float]) -> T:
    """What is best on val, ties to the smaller."""
    return max(sorted(found), key=lambda each: found[each])


def choose(memory: Seen, spec: EvaluationSpec) -> tuple[Choice, dict[str, float]]:
    """Hyper-parameters that are best on val; with their values there."""
    rest, val = _parted(memory, spec)
    knn = _knn(rest, val, spec.knn.k, spec)
    choice = Choice(best(knn), None)
    values = {"val/knn": knn[choice.k], "choice/knn_k": float(choice.k)}
    for shot, accuracies in _few(rest, val, spec.knn.shots, spec.knn.k, spec).items():
        k = best(accuracies)
        choice = choice._replace(shots=(*choice.shots, (shot, k)))
        values |= {f"val/knn_{shot}_shot": accuracies[k], f"choice/knn_{shot}_shot_k": float(k)}
    if spec.retrieval:
        values["val/retrieval"] = mean_average_precision(*rest[:2], *val[:2])
    if spec.logistic is not None:
        logistic = logistic_accuracies(*rest[:2], *val[:2], spec.logistic.c)
        choice = choice._replace(c=best(logistic))
        values |= {"val/logistic": max(logistic.values()), "choice/logistic_c": best(logistic)}
    if spec.linear is not None:
        choice, found = _choose_linear(rest, val, choice, spec)
        values |= found
    return choice, values


def _choose_linear(rest: Seen, val: Seen, choice: Choice, spec: EvaluationSpec) -> tuple[Choice, dict[str, float]]:
    """Among kinds of features and learning rates, all of which see the same batches in the same order."""
    assert spec.linear is not None
    there = kinds(spec) if rest.blocks is not None else kinds(spec)[:1]
    linear = {
        (kind, lr): value for kind in there for lr, value in _linear(rest, val, spec.linear.lrs, kind, spec).items()
    }
    kind, lr = best(linear)
    values = {"val/linear": linear[kind, lr], "choice/linear_lr": lr}
    if len(there) > 1:
        values |= {"choice/linear_blocks": float(kind.blocks), "choice/linear_average": float(kind.average)}
    return choice._replace(lr=lr, kind=kind), values


def on_test(memory: Seen, test: Seen, choice: Choice, spec: EvaluationSpec) -> dict[str, float]:
    """Accuracies on test with the whole memory and the given choice."""
    values = {"knn": _knn(memory, test, [choice.k], spec)[choice.k]}
    for shot, k in choice.shots:
        values[f"knn_{shot}_shot"] = _few(memory, test, [shot], [k], spec)[shot][k]
    if spec.retrieval:
        values["retrieval"] = mean_average_precision(*memory[:2], *test[:2])
    if choice.c is not None:
        values["logistic"] = logistic_accuracies(*memory[:2], *test[:2], [choice.c])[choice.c]
    if choice.lr is not None:
        values["linear"] = _linear(memory, test, [choice.lr], choice.kind, spec)[choice.lr]
    return values
