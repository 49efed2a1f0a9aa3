"""What a run costs, from its spec alone: multiply-adds counted as two FLOPs, in matrix products and attention.

Backward costs twice the forward; the pixels need no gradient. Skipped drop-path work is not subtracted.
"""

from dinov2lab.spec.run import Head, RunSpec


def tokens(px: int, patch: int) -> int:
    """Patch tokens and the class token of a square crop."""
    return (px // patch) ** 2 + 1


def _backbone(spec: RunSpec, px: int) -> tuple[int, int]:
    """Forward FLOPs of one crop: (blocks, patch embedding)."""
    dim, depth, _ = spec.model.architecture
    patches = tokens(px, spec.model.patch) - 1
    count = 1 + spec.model.registers + patches
    projections = 3 if spec.model.ffn == "swiglu" else 2
    blocks = depth * (2 * count * dim * (4 * dim + projections * spec.model.hidden) + 4 * count**2 * dim)
    return blocks, 2 * patches * 3 * spec.model.patch**2 * dim


def _head(dim: int, head: Head) -> int:
    """Forward FLOPs of one token through a projection head."""
    return 2 * (dim * head.hidden + head.hidden**2 + head.hidden * head.bottleneck + head.bottleneck * head.prototypes)


def flops_of_image(spec: RunSpec) -> int:
    """FLOPs that one training image costs: student forward and backward, teacher forward, heads."""
    views, dim, objective = spec.views, spec.model.architecture.dim, spec.objective
    teacher = objective.distill.run if objective.distill else spec
    teacher_dim, theirs = teacher.model.architecture.dim, teacher.objective
    global_blocks, global_embed = _backbone(spec, views.global_px)
    local_blocks, local_embed = _backbone(spec, views.local_px)
    total = 2 * (3 * global_blocks + 2 * global_embed) + views.local_crops * (3 * local_blocks + 2 * local_embed)
    total += 2 * sum(_backbone(teacher, views.global_px))
    if objective.dino.weight:
        total += 3 * (2 + views.local_crops) * _head(dim, objective.dino.head) + 2 * _head(
            teacher_dim, theirs.dino.head
        )
    if objective.ibot.weight:
        masks, patches = objective.ibot.masks, 2 * (tokens(views.global_px, spec.model.patch) - 1)
        share = 1.0 if objective.ibot.tokens == "all" else masks.probability * sum(masks.ratio) / 2
        both = 3 * _head(dim, objective.patch_head) + _head(teacher_dim, theirs.patch_head)
        total += round(share * patches * both)
    return total


def flops_skipped(spec: RunSpec) -> int:
    """Of flops_of_image, what stochastic depth leaves out of the student's blocks."""
    views = spec.views
    crops = 2 * _backbone(spec, views.global_px)[0] + views.local_crops * _backbone(spec, views.local_px)[0]
    return round(spec.model.drop_path * 3 * crops)


def images_of_run(spec: RunSpec) -> int:
    return spec.optim.steps * spec.optim.batch


def flops_of_run(spec: RunSpec) -> int:
    return images_of_run(spec) * flops_of_image(spec)
