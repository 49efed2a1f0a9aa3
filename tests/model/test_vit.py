"""The packed backbone against crop by crop, and against timm's own forward."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from dinov2lab.model.blocks import Kept
from dinov2lab.model.features import attention, block_features, features, patch_features
from dinov2lab.model.vit import Backbone, Tokens, positions_at
from dinov2lab.spec.model import LinearInit, ModelSpec
from dinov2lab.spec.resources import Recompute

MODEL = ModelSpec(size="pico", patch=8, layer_scale=0.5)
KINDS = [MODEL, *(MODEL.model_copy(update=change) for change in ({"ffn": "swiglu"}, {"registers": 3}))]


def backbone(seed: int = 0, model: ModelSpec = MODEL) -> Backbone:
    net = Backbone(model, 32)
    net.initialise(torch.Generator().manual_seed(seed))
    return net


def lively(seed: int = 0, model: ModelSpec = MODEL) -> Backbone:
    """Every parameter random, those too that start at a constant."""
    net, generator = backbone(seed, model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def images(count: int, px: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(seed + px))


def close(ours: Tokens, theirs: Tokens) -> None:
    torch.testing.assert_close(ours.cls, theirs.cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.patches, theirs.patches, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", KINDS)
def test_the_packed_pass_equals_crop_by_crop(model):
    net, crops = lively(model=model), [images(4), images(6, 16), images(2, 48)]
    together = net(crops)
    assert [tuple(tokens.patches.shape) for tokens in together] == [(4, 16, 64), (6, 4, 64), (2, 36, 64)]
    for tokens, group in zip(together, crops, strict=True):
        each = [net([group[row : row + 1]])[0] for row in range(len(group))]
        close(tokens, Tokens(*(torch.cat(parts) for parts in zip(*each, strict=True))))


def test_the_packed_pass_has_the_gradients_of_crop_by_crop():
    net, crops = lively(), [images(2), images(3, 16)]
    wanted = [parameter for name, parameter in net.named_parameters() if name != "mask_token"]
    together = torch.autograd.grad(
        sum(tokens.cls.square().sum() + tokens.patches.sin().sum() for tokens in net(crops)), wanted
    )
    alone = [net([row[None]])[0] for group in crops for row in group]
    one_by_one = torch.autograd.grad(
        sum(tokens.cls.square().sum() + tokens.patches.sin().sum() for tokens in alone), wanted
    )
    for a, b in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def in_timm(net: Backbone, model: ModelSpec) -> Any:
    """Its weights in timm's own DINOv2 network, made as small."""
    name = ("giant" if model.ffn == "swiglu" else "small") + "_patch14" + ("_reg4" if model.registers else "")
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2, "reg_tokens": model.registers}
    if model.ffn == "swiglu":
        size["mlp_ratio"] = 5.51  # 2 x 176 of 64, rounded down
    theirs = timm.create_model(f"vit_{name}_dinov2", **size).eval()
    assert [name for name, _ in theirs.named_parameters()] == [name for name, _ in net.vit.named_parameters()]
    theirs.load_state_dict(net.vit.state_dict())
    return theirs


@pytest.mark.parametrize("model", KINDS)
def test_weights_load_into_timm_and_give_the_same_features(model):
    net, crops = lively(model=model), images(3)
    theirs = in_timm(net, model)
    tokens = theirs.forward_features(crops)
    close(net([crops])[0], Tokens(tokens[:, 0], tokens[:, 1 + model.registers :]))
    torch.testing.assert_close(features(net, crops.split(2)), theirs(crops), rtol=1e-4, atol=1e-5)


def cubic(distance: float, a: float) -> float:
    """The convolution kernel of Keys (1981)."""
    x = abs(distance)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resampled(values: np.ndarray, wanted: int, step: float, antialias: bool) -> np.ndarray:
    """(side, ...) -> (wanted, ...) along the first axis, one old pixel after the other; edges are repeated, or left out."""
    side, wide = len(values), max(step, 1.0) if antialias else 1.0
    out = np.zeros((wanted, *values.shape[1:]))
    for row in range(wanted):
        centre, total = (row + 0.5) * step - 0.5, 0.0
        for old in range(-8 * side, 9 * side):
            weight = cubic((old - centre) / wide, -0.5 if antialias else -0.75)
            if antialias and not 0 <= old < side:
                continue
            total += weight
            out[row] += weight * values[min(max(old, 0), side - 1)]
        out[row] /= total
    return out


@pytest.mark.parametrize(("side", "grid"), [(6, 4), (4, 6), (5, 2), (37, 16), (16, 7)])
@pytest.mark.parametrize("registers", [0, 4])
def test_positions_are_resampled_as_the_reference_does(side, grid, registers):
    """Steps of side / (grid + 0.1), or antialiased in steps of side / grid for networks with registers."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(1, side**2 + (not registers), 2, generator=generator)
    found = positions_at(positions, (grid, grid), registers)
    step = side / grid if registers else side / (grid + 0.1)
    picture = positions[0, -(side**2) :].view(side, side, 2).double().numpy()
    rows = resampled(picture, grid, step, registers > 0)
    expected = resampled(rows.swapaxes(0, 1), grid, step, registers > 0).swapaxes(0, 1).reshape(-1, 2)
    torch.testing.assert_close(found[0, -(grid**2) :].double(), torch.from_numpy(expected), rtol=1e-3, atol=1e-4)
    if not registers:
        torch.testing.assert_close(found[:, 0], positions[:, 0])


@pytest.mark.parametrize(
    ("size", "ffn", "millions"),  # of the released networks at 518 pixels, by timm's table of results
    [("small", "mlp", 22.06), ("base", "mlp", 86.58), ("large", "mlp", 304.37), ("giant", "swiglu", 1136.48)],
)
def test_networks_are_as_large_as_the_released_ones(size, ffn, millions):
    model = ModelSpec(size=size, patch=14, ffn=ffn)
    with torch.device("meta"):
        net = Backbone(model, 518)
    assert sum(p.numel() for p in net.vit.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    width = {"small": 1536, "base": 3072, "large": 4096, "giant": 4096}[size]
    assert net.vit.blocks[0].mlp.fc2.weight.shape == (model.architecture.dim, width) == (net.dim, model.hidden)


def test_the_inner_width_of_swiglu_is_the_references():
    assert [ModelSpec(size=size, ffn="swiglu").hidden for size in ("large", "giant")] == [2736, 4096]
    with torch.device("meta"):
        assert Backbone(ModelSpec(size="large", ffn="swiglu"), 224).vit.blocks[0].mlp.fc1.weight.shape == (5472, 1024)


def test_the_mask_token_replaces_patches_before_positions_are_added():
    net, crops = lively(), images(2)
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, [3, 7]] = True
    embedded, plain = net.embed(crops, masks), net.embed(crops, None)
    positions = net.vit.pos_embed[0, 1:]
    torch.testing.assert_close(embedded[0, 1:][masks[0]], net.mask_token + positions[masks[0]])
    torch.testing.assert_close(embedded[0, 1:][~masks[0]], plain[0, 1:][~masks[0]])
    torch.testing.assert_close(embedded[:, 0], plain[:, 0])
    torch.testing.assert_close(embedded[1], plain[1])


def test_masked_pixels_do_not_matter_and_the_masks_are_those_of_the_first_size_alone():
    net, local = lively(), images(2, 16)
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[:, 5] = True  # the second row of patches, the second column
    other = images(2)
    other[:, :, 8:16, 8:16] = 100.0
    a, b = net([images(2), local], masks), net([other, local], masks)
    close(a[0], b[0])
    close(a[1], net([local])[0])
    assert not torch.allclose(net([other])[0].cls, a[0].cls, atol=1e-3)


def every_crop(sizes: list[int]) -> Kept:
    return Kept(tuple(torch.arange(size) for size in sizes), tuple(1.0 for _ in sizes))


def test_keeping_every_crop_is_no_drop_at_all():
    net, crops = lively(), [images(3), images(5, 16)]
    whole = [(every_crop([3, 5]), every_crop([3, 5]))] * net.depth
    for ours, theirs in zip(net(crops, None, whole), net(crops), strict=True):
        close(ours, theirs)


def test_a_dropped_branch_leaves_a_crop_as_it_is_and_a_kept_one_is_scaled():
    net, crops = lively(), [images(4), images(3, 16)]
    kept = Kept((torch.tensor([1, 2]), torch.tensor([0, 2])), (2.0, 1.5))
    none = [(every_crop([4, 3]), every_crop([4, 3]))] * (net.depth - 1)
    dropped = net(crops, None, [(kept, every_crop([4, 3])), *none])

    for size, (indices, scale) in enumerate(zip(kept.crops, kept.scales, strict=True)):
        for crop in range(len(crops[size])):
            single = lively()
            with torch.no_grad():
                single.vit.blocks[0].ls1.gamma.mul_(scale if crop in indices else 0.0)
            expected = single([crops[size][crop : crop + 1]])[0]
            close(Tokens(dropped[size].cls[crop : crop + 1], dropped[size].patches[crop : crop + 1]), expected)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("recompute", ["hidden", "blocks"])
def test_what_is_computed_again_changes_no_value_and_no_gradient(recompute: Recompute, ffn: str) -> None:
    crops = [images(3), images(5, 16)]
    drop = Kept((torch.tensor([0, 2]), torch.tensor([1, 2, 4])), (1.5, 5 / 3))
    for kept in (None, [(drop, drop)] * 4):
        found = []
        for what in ("nothing", recompute):
            net = backbone(0, ModelSpec(size="pico", patch=8, layer_scale=0.5, ffn=ffn))
            tokens = net(crops, None, kept, what)
            sum((part.cls.sin().sum() + part.patches.sin().sum()) for part in tokens).backward()
            gradients = {name: parameter.grad for name, parameter in net.named_parameters() if name != "mask_token"}
            found.append((tokens, gradients))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("model", KINDS)
def test_initialise_sets_every_parameter_to_what_the_reference_says(model):
    net = Backbone(model, 32)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(math.nan)
    net.initialise(torch.Generator().manual_seed(0))
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if "patch_embed" in name:
            bound = 1 / math.sqrt(net.vit.patch_embed.proj.weight[0].numel())
            assert 0.8 * bound < parameter.abs().max().item() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15), name
        elif name.endswith("bias") or name == "mask_token":
            assert (parameter == 0).all(), name
        elif name.endswith("gamma"):
            assert (parameter == 0.5).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            # With registers timm's class token is the reference's and its position in one.
            tiny = name.endswith("reg_token") or (name.endswith("cls_token") and not model.registers)
            scale = 1e-6 if tiny else 0.02
            assert parameter.std().item() == pytest.approx(scale, rel=0.5 if parameter.numel() < 100 else 0.1), name
            assert abs(parameter.mean().item()) < 4 * scale / math.sqrt(parameter.numel()), name


def test_xavier_draws_linear_layers_and_patch_embedding_and_leaves_the_rest():
    reference, xavier = (Backbone(ModelSpec(size="pico", patch=8, linear_init=how), 32) for how in get_args(LinearInit))
    expected = {"qkv": 64 + 64, "proj": 64 + 64, "fc1": 64 + 256, "fc2": 256 + 64, "patch_embed": 192 + 64}
    for net in (reference, xavier):
        net.initialise(torch.Generator().manual_seed(0))
    drawn = dict(reference.named_parameters())
    for name, parameter in xavier.named_parameters():
        part = next((part for part in ("patch_embed", "qkv", "proj", "fc1", "fc2") if part in name), None)
        if part and name.endswith("weight"):
            bound = math.sqrt(6 / expected[part])
            assert 0.95 * bound < parameter.abs().max().item() <= bound, name
        elif "norm" in name or name.endswith(("gamma", "mask_token")):
            assert torch.equal(parameter, drawn[name]), name
        else:
            assert parameter.std().item() == pytest.approx(drawn[name].std().item(), rel=0.5), name


def test_initial_weights_are_those_of_the_generator_alone():
    torch.manual_seed(1)
    first = backbone(3).state_dict()
    torch.manual_seed(2)
    second, other = backbone(3).state_dict(), backbone(4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["vit.pos_embed"], other["vit.pos_embed"])


@pytest.mark.parametrize("model", KINDS)
def test_gradients_reach_every_parameter(model):
    net = lively(model=model)
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, 0] = True
    tokens = net([images(2), images(2, 16)], masks)
    sum((part.cls.sin().sum() + part.patches.sin().sum()) for part in tokens).backward()
    assert [
        name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


def test_features_are_class_tokens_without_gradient_whatever_the_batches():
    net, crops = lively(), images(5)
    found = features(net, [crops[:2], crops[2:]])
    torch.testing.assert_close(found, net([crops])[0].cls.detach(), rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("model", KINDS)
def test_the_last_blocks_are_those_of_timm(model):
    net, pictures = lively(model=model), images(3)
    theirs = in_timm(net, model).forward_intermediates(
        pictures, indices=3, norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )
    for ours, (patches, prefix) in zip(net.last(pictures, 3), theirs, strict=True):
        close(ours, Tokens(prefix[:, 0], patches))
    close(net.last(pictures, 1)[0], net([pictures])[0])
    assert len(net.last(pictures, 99)) == net.depth


@torch.no_grad()
def test_features_of_blocks_end_with_the_class_token_and_the_mean_patch():
    net, pictures = lively(), images(3)
    blocks = block_features(net, [pictures[:2], pictures[2:]])
    torch.testing.assert_close(blocks[:, -2], features(net, [pictures]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(blocks[:, -1], patch_features(net, [pictures]).mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", KINDS)
@torch.no_grad()
def test_attention_is_that_which_timm_computes_in_its_last_block(model):
    net, pictures, seen = lively(model=model), images(3), []
    theirs = in_timm(net, model)
    inner = theirs.blocks[-1].attn
    inner.fused_attn = False  # timm then computes the weights apart, and drops some of them: none here
    handle = inner.attn_drop.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    theirs.forward_features(pictures)
    handle.remove()
    ours = attention(net, [pictures])
    torch.testing.assert_close(ours, seen[0][:, :, 0, 1 + net.registers :], rtol=1e-4, atol=1e-6)
    assert ours.shape == (3, net.heads, 16)
