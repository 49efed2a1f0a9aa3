"""The terms of the objective against loops in float64 and against the lightly package: values and gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.loss.swav_loss import sinkhorn as swav_sinkhorn
from torch import Tensor

from dinov2lab.training import losses

TOLERANCE = 1e-5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(row: Tensor, temperature: float) -> list[Tensor]:
    """In float64, number by number."""
    scaled = [value.double() / temperature for value in row]
    total = torch.stack([value.exp() for value in scaled]).sum().log()
    return [value - total for value in scaled]


def cross_entropy(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    pairs = zip(target, log_softmax(student, temperature), strict=True)
    return -torch.stack([t.double() * s for t, s in pairs]).sum()


def agree(value: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Values, and gradients by each of `inputs`, within the tolerance relative to their size."""
    assert value.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    ours = torch.autograd.grad(value, inputs, retain_graph=True)
    theirs = torch.autograd.grad(expected, inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm() / b.norm()) < TOLERANCE


@pytest.mark.parametrize("local_crops", [0, 1, 3])
def test_dino_is_the_mean_over_pairs_of_different_crops(local_crops):
    images, prototypes = 3, 5
    globals_ = drawn(2 * images, prototypes).requires_grad_()
    locals_ = drawn(local_crops * images, prototypes, seed=1).requires_grad_() if local_crops else None
    targets = drawn(2 * images, prototypes, seed=2).softmax(-1)
    global_term, local_term = losses.dino_loss(globals_, locals_, targets, 0.1)
    pairs = 2 + 2 * local_crops
    crosswise = [(image, images + image) for image in range(images)]
    swapped = [cross_entropy(globals_[a], targets[b], 0.1) for pair in crosswise for a, b in (pair, pair[::-1])]
    agree(global_term, torch.stack(swapped).sum() / (images * pairs), globals_)
    if locals_ is None:
        assert float(local_term) == 0
        return
    each = [
        cross_entropy(locals_[view * images + image], targets[teacher * images + image], 0.1)
        for view in range(local_crops)
        for image in range(images)
        for teacher in range(2)
    ]
    agree(local_term, torch.stack(each).sum() / (images * pairs), locals_)


def test_dino_and_its_centre_agree_with_lightly():
    images, prototypes, local_crops = 4, 16, 3
    theirs = DINOLoss(prototypes, teacher_temp=0.05, student_temp=0.1, center_momentum=0.9)
    centre = torch.zeros(1, prototypes)
    for step in range(3):
        teacher = drawn(2 * images, prototypes, seed=10 * step)
        globals_ = drawn(2 * images, prototypes, seed=10 * step + 1).requires_grad_()
        locals_ = drawn(local_crops * images, prototypes, seed=10 * step + 2).requires_grad_()
        targets = losses.centred_softmax(teacher, 0.05, centre)
        ours = sum(losses.dino_loss(globals_, locals_, targets, 0.1))
        # `list` of views; it centres by the centre of the steps before, and moves it afterwards
        expected = theirs(list(teacher.chunk(2)), [*globals_.chunk(2), *locals_.chunk(local_crops)])
        agree(ours, expected, globals_, locals_)
        centre = losses.updated_centre(centre, teacher, 0.9)
        torch.testing.assert_close(centre, theirs.center.view(1, -1))


def masked_patches(crops: int = 6, prototypes: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(masks, weights, student scores, targets); half of the crops are masked, unequally."""
    masks = torch.zeros(crops, 9, dtype=torch.bool)
    for crop, count in ((0, 1), (2, 4), (5, 2)):
        masks[crop, :count] = True
    weights = torch.tensor([1.0] + 4 * [1 / 4] + 2 * [1 / 2])
    scores = drawn(7, prototypes, seed=3).requires_grad_()
    return masks, weights, scores, drawn(7, prototypes, seed=4).softmax(-1)


def test_ibot_weighs_masked_crops_equally_and_divides_by_all_crops():
    masks, weights, scores, targets = masked_patches()
    each = [cross_entropy(scores[row], targets[row], 0.1) for row in range(7)]
    of_crops = [each[0], sum(each[1:5]) / 4, sum(each[5:7]) / 2]
    agree(losses.ibot_loss(scores, targets, weights, len(masks), 0.1), sum(of_crops) / 6, scores)


def test_ibot_agrees_with_lightly():
    masks, weights, scores, _ = masked_patches()
    teacher = drawn(7, 7, seed=5)
    targets = losses.centred_softmax(teacher, 0.04, torch.zeros(1, 7))
    expected = IBOTPatchLoss(7, teacher_temp=0.04, student_temp=0.1)(teacher, scores, masks.view(6, 3, 3))
    agree(losses.ibot_loss(scores, targets, weights, 6, 0.1), expected, scores)


def test_without_a_masked_patch_ibot_is_zero_and_can_be_derived():
    scores = torch.zeros(0, 5, requires_grad=True)
    targets = losses.sinkhorn(torch.zeros(0, 5), 0.05)
    value = losses.ibot_loss(scores, targets, torch.zeros(0), 4, 0.1)
    value.backward()
    assert value.item() == 0
    assert targets.shape == (0, 5)


def naive_koleo(rows: Tensor, group: int) -> Tensor:
    unit = [row.double() / row.double().norm() for row in rows]
    logs = []
    for i in range(len(rows)):
        start = i // group * group
        others = [j for j in range(start, start + group) if j != i]
        nearest = max(others, key=lambda j: (unit[i] @ unit[j]).item())
        logs.append((((unit[i] - unit[nearest] + 1e-8) ** 2).sum().sqrt() + 1e-8).log())
    return -torch.stack(logs).mean()


@pytest.mark.parametrize("group", [2, 3, 12])
def test_koleo_looks_for_the_neighbour_within_its_group(group):
    tokens = drawn(12, 6).requires_grad_()
    agree(losses.koleo_loss(tokens, group), naive_koleo(tokens, group), tokens)


def test_koleo_agrees_with_lightly():
    tokens = drawn(16, 8).requires_grad_()
    agree(losses.koleo_loss(tokens, 16), KoLeoLoss()(tokens), tokens)


def test_koleo_of_equal_tokens_is_finite_even_in_half_precision():
    tokens = torch.ones(4, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = losses.koleo_loss(tokens, 4)
    value.backward()
    assert value.dtype == torch.float32
    assert 15 < value.item() < 20  # about -log 3e-8: the eps of the distance over 8 dimensions, and its own
    assert torch.isfinite(tokens.grad).all()


def test_koleo_does_not_take_a_token_for_its_own_neighbour_where_the_other_is_opposite():
    tokens = torch.stack([drawn(16), -drawn(16)])
    assert float(losses.koleo_loss(tokens, 2)) == pytest.approx(-math.log(2), rel=1e-5)


def naive_sinkhorn(scores: np.ndarray, temperature: float, iterations: int = 3) -> np.ndarray:
    """As the reference does it: prototypes x samples, in float64 (and where that ends, in whatever is longer)."""
    table = np.exp(scores.astype(np.longdouble).T / temperature)
    prototypes, samples = table.shape
    table /= table.sum()
    for _ in range(iterations):
        for prototype in range(prototypes):
            table[prototype] /= table[prototype].sum() * prototypes
        for sample in range(samples):
            table[:, sample] /= table[:, sample].sum() * samples
    return (table * samples).T.astype(np.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 30), st.sampled_from([0.02, 0.04, 0.07, 1.0]), st.integers(0, 99))
def test_sinkhorn_agrees_with_the_loops_of_the_reference(rows, prototypes, temperature, seed):
    scores = torch.nn.functional.normalize(drawn(rows, prototypes, seed=seed), dim=-1)
    ours, expected = losses.sinkhorn(scores, temperature), naive_sinkhorn(scores.numpy(), temperature)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=2e-5, atol=1e-7)


def test_sinkhorn_agrees_with_lightly():
    scores = torch.nn.functional.normalize(drawn(32, 10), dim=-1)
    torch.testing.assert_close(losses.sinkhorn(scores, 0.05), swav_sinkhorn(scores, epsilon=0.05))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 30), st.floats(0.1, 200.0), st.integers(0, 99))
def test_rows_of_sinkhorn_sum_to_one_whatever_the_spread_of_the_scores(rows, prototypes, spread, seed):
    targets = losses.sinkhorn(spread * drawn(rows, prototypes, seed=seed), 0.02)
    assert torch.isfinite(targets).all()
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(1), torch.ones(rows), rtol=0, atol=1e-4)


def test_sinkhorn_uses_prototypes_equally_often():
    scores = drawn(64, 8) + 3 * torch.arange(8)  # one prototype is everybody's favourite
    assert float(scores.argmax(1).float().mean()) > 6.5
    used = losses.sinkhorn(scores, 1.0, iterations=50).mean(0)
    torch.testing.assert_close(used, torch.full((8,), 1 / 8), rtol=1e-3, atol=0)
    three = losses.sinkhorn(scores, 1.0).mean(0)
    assert 0.06 < float(three.min()) <= float(three.max()) < 0.2


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_sinkhorn_works_in_float32_and_does_not_overflow(scale):
    scores = scale * torch.nn.functional.normalize(drawn(16, 8), dim=-1)
    targets = losses.sinkhorn(scores.half(), 0.02)
    assert targets.dtype == torch.float32
    expected = naive_sinkhorn(scores.half().float().numpy(), 0.02)
    np.testing.assert_allclose(targets.numpy(), expected, rtol=2e-3, atol=1e-6)


def test_centring_subtracts_before_it_sharpens():
    scores, centre = drawn(3, 4), drawn(1, 4, seed=1)
    ours = losses.centred_softmax(scores, 0.04, centre)
    for row in range(3):
        expected = [value.exp() for value in log_softmax(scores[row].double() - centre[0].double(), 0.04)]
        torch.testing.assert_close(ours[row].double(), torch.stack(expected), rtol=1e-4, atol=1e-9)


def test_the_centre_is_a_moving_mean_over_rows():
    centre, scores = drawn(1, 4), drawn(5, 4, seed=1)
    moved = losses.updated_centre(centre, scores, 0.9)
    expected = [0.9 * float(centre[0, k]) + 0.1 * sum(float(scores[i, k]) for i in range(5)) / 5 for k in range(4)]
    np.testing.assert_allclose(moved[0].numpy(), expected, rtol=1e-5)
    assert losses.updated_centre(centre, scores[:0], 0.9) is centre


@pytest.mark.parametrize(
    ("prototypes", "local", "global_", "logged_ibot"),
    [(4096, 7.394, 0.924, 2.079), (65536, 9.858, 1.232, 2.773), (131072, 10.474, 1.309, 2.946)],
)
def test_uniform_outputs_show_the_signature_of_the_reference(prototypes, local, global_, logged_ibot):
    """8 local crops, half of the crops masked. The reference logs iBOT's term at half of what it optimises; we log that."""
    images = 2
    targets = torch.full((2 * images, prototypes), 1 / prototypes)
    terms = losses.dino_loss(torch.zeros(2 * images, prototypes), torch.zeros(8 * images, prototypes), targets, 0.1)
    assert float(terms[0]) == pytest.approx(global_, abs=1e-3)
    assert float(terms[1]) == pytest.approx(local, abs=1e-3)
    weights = torch.full((2,), 1.0)  # two of four crops have one masked patch each
    ibot = losses.ibot_loss(torch.zeros(2, prototypes), targets[:2], weights, 2 * images, 0.1)
    assert float(ibot) / 2 == pytest.approx(logged_ibot, abs=1e-3)
    assert float(losses.entropy(targets)) == pytest.approx(math.log(prototypes), rel=1e-5)
