"""What is measured of frozen patch tokens, as protocol.py does of whole images: chosen on val, test looked at once.

Val is a share of the memory's images, the same for every run. An embedding gives (rows, N, D) patch tokens.
"""

from dinov2lab.evaluation.depth import depth_errors
from dinov2lab.evaluation.protocol import Embedding, EvaluationData, best
from dinov2lab.evaluation.segmentation import segmentation_mious
from dinov2lab.spec.evaluation import EvaluationSpec


def look(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """During training: segmentation on val, by the best learning rate. Never sees test."""
    if spec.segmentation is None or data.memory_masked is None:
        return {}
    val = segmentation(embed, data._replace(test_masked=None), spec)
    return {"val/segmentation": val["val/segmentation"]}


def final(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    return segmentation(embed, data, spec) | depth(embed, data, spec)


def segmentation(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """Mean IoU of the linear probe."""
    if spec.segmentation is None or data.memory_masked is None:
        return {}
    tokens, masks = embed(data.memory_masked.pictures), data.memory_masked.masks
    options = spec.segmentation.model_dump(include={"epochs", "batch"})
    held = _held(len(tokens), spec)
    val = segmentation_mious(
        tokens[held:], masks[held:], tokens[:held], masks[:held], lrs=spec.segmentation.lrs, **options
    )
    lr = best(val)
    values = {"val/segmentation": val[lr], "choice/segmentation_lr": lr}
    if data.test_masked is not None:
        test = embed(data.test_masked.pictures), data.test_masked.masks
        values["test/segmentation"] = segmentation_mious(tokens, masks, *test, lrs=(lr,), **options)[lr]
    return values


def depth(embed: Embedding, data: EvaluationData, spec: EvaluationSpec) -> dict[str, float]:
    """The share of pixels that the linear probe places within 25 %, and of pairs that it puts in the right order."""
    if spec.depth is None or data.memory_deep is None:
        return {}
    tokens, depths = embed(data.memory_deep.pictures), data.memory_deep.depths
    options = spec.depth.model_dump(include={"epochs", "batch", "bins"})
    held = _held(len(tokens), spec)
    val = depth_errors(tokens[held:], depths[held:], tokens[:held], depths[:held], lrs=spec.depth.lrs, **options)
    lr = best({lr: errors.near for lr, errors in val.items()})
    values = {"val/depth": val[lr].near, "val/depth_order": val[lr].order, "choice/depth_lr": lr}
    if data.test_deep is not None:
        test = embed(data.test_deep.pictures), data.test_deep.depths
        found = depth_errors(tokens, depths, *test, lrs=(lr,), **options)[lr]
        values |= {"test/depth": found.near, "test/depth_order": found.order}
    return values


def _held(count: int, spec: EvaluationSpec) -> int:
    """How many of the first images are val: they are in a random order."""
    return max(1, round(spec.val_fraction * count))
