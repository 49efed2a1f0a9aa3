"""One step: its losses against a pass crop by crop in float64, its update against torch's parts, and every switch."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import KoLeoLoss
from short_run import SPEC, pictures, with_
from torch import Tensor, nn

from dinov2lab.data.loader import Order
from dinov2lab.draws import Key
from dinov2lab.spec.run import RunSpec
from dinov2lab.training import optimizer
from dinov2lab.training.loop import make_batch
from dinov2lab.training.schedules import values_at
from dinov2lab.training.step import Batch, Diverged, State, kept_crops, train_step

KEY, CPU = Key(0), torch.device("cpu")
SHARED = {"objective.ibot.head": None}
EMA = {"objective.teacher.centering": "ema"}
WHOLE = with_(SPEC, {"model.drop_path": 0.0})


def begun(spec: RunSpec) -> tuple[State, Batch]:
    """Weights in which every part plays a role, a teacher of its own, and the batch of step 0."""
    state, generator = State(spec, KEY, CPU), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*state.student.parameters(), *state.teacher.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for centre in state.centres:
            centre.add_(0.1 * torch.randn(centre.shape, generator=generator))
    return state, batch_of(spec, state.step)


PICTURES = pictures()


def batch_of(spec: RunSpec, step: int) -> Batch:
    return make_batch(step, PICTURES, Order(len(PICTURES), KEY), spec, KEY, CPU)


def in_float64(
    spec: RunSpec, state: State, batch: Batch, *, masked: bool = True
) -> tuple[dict[str, Tensor], nn.ModuleDict]:
    """The terms of the objective, crop by crop as the paper writes them; and the student, for its gradients."""
    student, teacher = copy.deepcopy(state.student).double(), copy.deepcopy(state.teacher).double()
    objective, group = spec.objective, spec.objective.koleo.group
    globals_ = [crop[None].double() for crop in batch.crops[0]]
    locals_ = [crop[None].double() for crop in batch.crops[1]] if len(batch.crops) > 1 else []
    images = len(globals_) // 2
    pairs = images * (2 + 2 * len(locals_) // images)
    patch_head = "ibot_head" if "ibot_head" in student else "dino_head"
    temperature = values_at(state.step, spec.optim, objective).teacher_temperature

    def targets(scores: list[Tensor], centre: Tensor) -> Tensor:
        rows = torch.cat(scores)
        if objective.teacher.centering == "ema":
            return F.softmax((rows - centre.double()) / temperature, dim=-1)
        q = torch.exp(rows / temperature)
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
        return q

    def cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
        return -(target * F.log_softmax(scores / objective.student_temperature, dim=-1)).sum()

    with torch.no_grad():
        seen = [teacher["backbone"]([crop])[0] for crop in globals_]
        cls = targets([teacher["dino_head"](tokens.cls) for tokens in seen], state.centres.cls)
        hidden = [tokens.patches[0][mask] for tokens, mask in zip(seen, batch.masks, strict=True)]
        patches = targets([teacher[patch_head](tokens) for tokens in hidden], state.centres.patches)
    masks = batch.masks if objective.ibot.weight and masked else torch.zeros_like(batch.masks)
    ours = [student["backbone"]([crop], mask[None])[0] for crop, mask in zip(globals_, masks, strict=True)]
    scores = [student["dino_head"](tokens.cls) for tokens in ours]
    small = [student["dino_head"](student["backbone"]([crop])[0].cls) for crop in locals_]
    crosswise = [cross_entropy(row, cls[(crop + images) % (2 * images)]) for crop, row in enumerate(scores)]
    both = [cross_entropy(row, cls[view * images + crop % images]) for crop, row in enumerate(small) for view in (0, 1)]
    groups = [
        torch.cat([tokens.cls for tokens in ours[start : start + group]]) for start in range(0, 2 * images, group)
    ]
    terms = {
        "dino_global": torch.stack(crosswise).sum() / pairs,
        "dino_local": torch.stack(both).sum() / pairs if both else torch.zeros(()),
        "koleo": torch.stack([KoLeoLoss()(tokens) for tokens in groups]).sum() / (images / group),
    }
    if objective.ibot.weight:
        of_crops, start = [], 0
        for tokens, mask in zip(ours, batch.masks, strict=True):
            if mask.any():
                rows = student[patch_head](tokens.patches[0][mask])
                of_crops.append(cross_entropy(rows, patches[start : start + len(rows)]) / len(rows))
                start += len(rows)
        terms["ibot"] = torch.stack(of_crops).sum() / len(globals_)
    return terms, student


@pytest.mark.parametrize(
    "changes",
    [
        {},
        SHARED,
        EMA,
        SHARED | EMA,
        {"views.local_crops": 0},
        {"views.local_crops": 5, "objective.koleo.group": 2},
        {"objective.ibot.weight": 0.0},
    ],
)
def test_losses_and_gradients_are_those_of_a_pass_crop_by_crop_in_float64(changes):
    spec = with_(WHOLE, {"objective.ibot.weight": 0.7, "objective.dino.weight": 1.3, "optim.clip": 1e9, **changes})
    state, batch = begun(spec)
    terms, student = in_float64(spec, state, batch)
    logged = train_step(state, batch, spec, KEY)
    weights = spec.objective
    factors = {"koleo": weights.koleo.weight, "ibot": weights.ibot.weight}
    total = sum(factors.get(name, weights.dino.weight) * term for name, term in terms.items())
    for name, term in (*terms.items(), ("total", total)):
        assert logged[f"loss/{name}"].item() == pytest.approx(term.item(), rel=1e-5), name
    total.backward()
    for (name, ours), expected in zip(state.student.named_parameters(), student.parameters(), strict=True):
        if expected.grad is None or not expected.grad.any():
            assert ours.grad is None or not ours.grad.any(), name
        else:
            assert float((ours.grad - expected.grad).norm() / expected.grad.norm()) < 1e-3, name


def test_the_update_clips_each_network_steps_with_adamw_and_moves_the_teacher():
    spec = with_(SPEC, {"optim.clip": 0.05, "optim.warmup_steps": 0})
    state, batch = begun(spec)
    before, old_teacher = copy.deepcopy(state.student), copy.deepcopy(state.teacher)
    logged = train_step(state, batch, spec, KEY)
    for module in state.student.values():
        norm = torch.stack([parameter.grad.norm() for parameter in module.parameters()]).norm()
        assert float(norm) <= 0.05 * (1 + 1e-4)
    assert float(logged["gradient/norm"]) > 0.05, "logged before it is clipped"
    expected = optimizer.build(dict(before.items()), spec.optim)
    optimizer.schedule(expected, values_at(0, spec.optim, spec.objective))
    for ours, copied in zip(state.student.parameters(), before.parameters(), strict=True):
        copied.grad = ours.grad.clone()
    expected.step()
    momentum = values_at(0, spec.optim, spec.objective).momentum
    rows = zip(state.student.parameters(), before.parameters(), strict=True)
    for ours, copied in rows:
        torch.testing.assert_close(ours, copied)
    networks = (state.teacher, old_teacher, state.student)
    for new, old, student in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * student, rtol=1e-4, atol=1e-7)
        assert new.grad is None
    assert state.step == 1


def test_a_frozen_teacher_gives_the_targets_and_the_average_of_the_student_goes_its_own_way():
    """With all tokens compared: the terms and gradients of a pass crop by crop whose teacher is the frozen one."""
    spec = with_(WHOLE, {"objective.ibot.tokens": "all", "objective.ibot.masks.probability": 0.0, "optim.clip": 1e9})
    larger = with_(spec, {"model.size": "nano"})
    other, _ = begun(larger)
    state, batch = begun(spec)
    state.frozen, average = other.teacher, copy.deepcopy(state.teacher)
    stand_in = copy.copy(state)
    stand_in.teacher = other.teacher
    terms, student = in_float64(spec, stand_in, batch._replace(masks=torch.ones_like(batch.masks)), masked=False)
    before = copy.deepcopy(other.teacher.state_dict())
    logged = train_step(state, batch, spec, KEY)
    for name, term in terms.items():
        assert logged[f"loss/{name}"].item() == pytest.approx(term.item(), rel=1e-5), name
    (terms["dino_global"] + terms["dino_local"] + terms["ibot"] + 0.1 * terms["koleo"]).backward()
    for (name, ours), expected in zip(state.student.named_parameters(), student.parameters(), strict=True):
        if expected.grad is not None and expected.grad.any():
            assert float((ours.grad - expected.grad).norm() / expected.grad.norm()) < 1e-3, name
    torch.testing.assert_close(dict(other.teacher.state_dict()), before, rtol=0, atol=0)
    momentum = values_at(0, spec.optim, spec.objective).momentum
    for new, old, theirs in zip(*(net.parameters() for net in (state.teacher, average, state.student)), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * theirs, rtol=1e-4, atol=1e-7)


OFF = {name: {f"objective.{name}.weight": 0.0} for name in ("dino", "ibot", "koleo")}
ALL = {"dino_global", "dino_local", "ibot", "koleo"}


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, ALL),
        (OFF["dino"], {"ibot", "koleo"}),
        (OFF["ibot"], ALL - {"ibot"}),
        (OFF["koleo"], ALL - {"koleo"}),
        (OFF["koleo"] | {"objective.koleo.group": 7}, ALL - {"koleo"}),
        (OFF["dino"] | OFF["ibot"], {"koleo"}),
        (OFF["dino"] | OFF["koleo"], {"ibot"}),
        (OFF["dino"] | OFF["koleo"] | SHARED, {"ibot"}),
        (OFF["ibot"] | OFF["koleo"] | {"views.local_crops": 0}, {"dino_global", "dino_local"}),
        ({"views.local_crops": 0}, ALL),
        (SHARED, ALL),
        (SHARED | EMA, ALL),
        (EMA, ALL),
        ({"objective.koleo.group": 2}, ALL),
        ({"objective.koleo.group": 8}, ALL),
        ({"objective.ibot.masks.probability": 0.0}, ALL),
        ({"objective.ibot.masks.probability": 1.0}, ALL),
        ({"model.drop_path": 0.0}, ALL),
        ({"model.drop_path": 0.99}, ALL),
        ({"views.global_px": 16, "views.local_px": 8}, ALL),
        ({"views.global_px": 8, "views.local_px": 8}, ALL),
        ({"views.blur": "intended"}, ALL),
        ({"objective.ibot.tokens": "all"}, ALL),
        ({"model.ffn": "swiglu", "model.registers": 4}, ALL),
        ({"optim.freeze_backbone_steps": 2, "optim.warmup": "cosine"}, ALL),
        ({"optim.precision": "bf16"}, ALL),
        ({"objective.teacher.temperature": 0.005, "objective.teacher.temperature_warmup_steps": 0}, ALL),
    ],
)
def test_every_switch_runs_and_leaves_the_stated_terms(changes, terms):
    spec = with_(SPEC, changes)
    state = State(spec, KEY, CPU)
    for step in range(2):
        logged = train_step(state, batch_of(spec, step), spec, KEY)
    losses = {name.removeprefix("loss/") for name in logged if name.startswith("loss/")}
    assert losses == terms | {"total"}
    assert all(torch.isfinite(value) for value in logged.values())
    assert all(torch.isfinite(parameter).all() for parameter in state.student.parameters())
    if spec.views.local_crops == 0 and spec.objective.dino.weight:
        assert float(logged["loss/dino_local"]) == 0
    if not spec.objective.ibot.masks.probability:
        assert float(logged["loss/ibot"]) == 0


def test_without_any_weight_there_is_nothing_to_learn_from():
    spec = with_(SPEC, OFF["dino"] | OFF["ibot"] | OFF["koleo"])
    with pytest.raises(ValueError, match="every weight is 0"):
        train_step(State(spec, KEY, CPU), batch_of(spec, 0), spec, KEY)


def test_without_ibot_the_student_sees_no_mask():
    spec = with_(WHOLE, OFF["ibot"])
    _, batch = begun(spec)
    totals = [
        float(train_step(begun(spec)[0], batch._replace(masks=masks), spec, KEY)["loss/total"])
        for masks in (batch.masks, torch.zeros_like(batch.masks))
    ]
    assert totals[0] == totals[1]


@pytest.mark.parametrize("centering", ["ema", "sinkhorn"])
def test_only_ema_centering_moves_the_centres(centering):
    spec = with_(SPEC, {"objective.teacher.centering": centering})
    state, batch = begun(spec)
    old = state.centres
    train_step(state, batch, spec, KEY)
    moved = [not torch.equal(a, b) for a, b in zip(old, state.centres, strict=True)]
    assert moved == [centering == "ema"] * 2


def test_untrained_networks_start_at_the_uniform_signature():
    """K prototypes, V local crops, half of the crops masked: see the note on uniform outputs in test_losses."""
    wide = {"prototypes": 64, "hidden": 32, "bottleneck": 256}  # so wide that random directions are nearly orthogonal
    spec = with_(SPEC, {"objective.dino.head": wide, "objective.ibot.head": wide | {"prototypes": 128}})
    logged = train_step(State(spec, KEY, CPU), batch_of(spec, 0), spec, KEY)
    assert float(logged["loss/dino_global"]) == pytest.approx(2 / 6 * np.log(64), rel=0.1)
    assert float(logged["loss/dino_local"]) == pytest.approx(4 / 6 * np.log(64), rel=0.1)
    assert float(logged["loss/ibot"]) == pytest.approx(0.5 * np.log(128), rel=0.1)


def test_a_loss_that_is_not_finite_changes_nothing():
    state, batch = begun(with_(SPEC, EMA))
    before = copy.deepcopy((state.student.state_dict(), state.teacher.state_dict(), state.centres))
    batch.crops[0][3, 0, 0, 0] = torch.nan
    with pytest.raises(Diverged, match="step 0"):
        train_step(state, batch, with_(SPEC, EMA), KEY)
    after = (state.student.state_dict(), state.teacher.state_dict(), state.centres)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert state.step == 0
    assert not state.optimizer.state


def test_bf16_losses_are_near_those_of_fp32():
    values = []
    for precision in ("fp32", "bf16"):
        spec = with_(WHOLE, {"optim.precision": precision})
        state, batch = begun(spec)
        values.append(float(train_step(state, batch, spec, KEY)["loss/total"]))
        assert {parameter.dtype for parameter in state.student.parameters()} == {torch.float32}
    assert values[1] == pytest.approx(values[0], rel=0.03)
    assert values[1] != values[0]


@pytest.mark.parametrize(
    ("size", "rate", "count"), [(10, 0.3, 7), (20, 0.1, 18), (3, 0.9, 1), (5, 0.3, 3), (1, 0.5, 1)]
)
def test_drop_path_keeps_an_exact_share_and_scales_it_back(size, rate, count):
    for blocks in kept_crops([size, 4 * size], 2, rate, KEY, 5):
        for kept in blocks:
            assert len(kept.crops[0]) == count
            assert kept.crops[0].tolist() == sorted(set(kept.crops[0].tolist()) & set(range(size)))
            for crops, scale, of in zip(kept.crops, kept.scales, (size, 4 * size), strict=True):
                assert scale * len(crops) == pytest.approx(of), "the expectation of each size stays"


def test_drop_path_keeps_each_crop_as_often_and_depends_on_key_and_step_alone():
    counts = np.zeros(10)
    for step in range(300):
        kept = kept_crops([10], 1, 0.3, KEY, step)
        assert kept is not None
        counts[kept[0][0].crops[0].numpy()] += 1
    assert np.abs(counts / 300 - 0.7).max() < 4 * np.sqrt(0.7 * 0.3 / 300)
    draws = [kept_crops([30, 30], 3, 0.3, key, step) for key, step in ((KEY, 1), (KEY, 1), (KEY, 2), (Key(0, 1), 1))]
    flat = [str([[part.crops for part in block] for block in draw]) for draw in draws]
    assert flat[0] == flat[1]
    assert len(set(flat)) == 3
    branches = [str(crops) for block in draws[0] for part in block for crops in part.crops]
    assert len(set(branches)) == len(branches), "blocks, branches and sizes draw for themselves"


def test_without_drop_path_every_crop_is_computed():
    assert kept_crops([4, 8], 3, 0.0, KEY, 0) is None
