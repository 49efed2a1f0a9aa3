"""The products that keep less, and attention by plain products, against their parts composed, values and gradients."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2lab.model import attention
from dinov2lab.model.attention import attend
from dinov2lab.model.products import Activation, feed_forward, linear, norm_linear, scaled_linear

ROWS, WIDTH, HIDDEN = 7, 12, 20
ACTIVATED: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "swiglu": lambda x: F.silu(x[..., : x.shape[-1] // 2]) * x[..., x.shape[-1] // 2 :],
}


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def layers(dtype: torch.dtype, activation: Activation = "none") -> tuple[nn.LayerNorm, nn.Linear, nn.Linear, Tensor]:
    torch.manual_seed(0)
    norm, up = nn.LayerNorm(WIDTH, dtype=dtype), nn.Linear(WIDTH, HIDDEN, dtype=dtype)
    down = nn.Linear(HIDDEN // 2 if activation == "swiglu" else HIDDEN, WIDTH, dtype=dtype)
    with torch.no_grad():
        norm.weight.add_(drawn(WIDTH, dtype=dtype))
        norm.bias.add_(drawn(WIDTH, seed=1, dtype=dtype))
    return norm, up, down, drawn(WIDTH, seed=2, dtype=dtype)


def agree(ours: Tensor, theirs: Tensor, inputs: Sequence[Tensor], rtol: float) -> None:
    weights = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).view_as(ours)
    pairs = [(ours, theirs)]
    pairs += zip(*(torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, theirs)), strict=True)
    for mine, other in pairs:
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol * float(other.detach().abs().max()))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("activation", ACTIVATED)
def test_products_are_their_parts_composed(activation: Activation, dtype: torch.dtype, rtol: float) -> None:
    norm, up, down, scale = layers(dtype, activation)
    x = drawn(ROWS, WIDTH, seed=3, dtype=dtype)
    hidden = drawn(ROWS, HIDDEN, seed=4, dtype=dtype)
    activated = ACTIVATED[activation]
    agree(linear(x, up.weight), F.linear(x, up.weight), [x, up.weight], rtol)
    agree(norm_linear(x, norm, up), up(norm(x)), [x, *norm.parameters(), *up.parameters()], rtol)
    for factor, factors in ((scale, [scale]), (None, [])):
        ours = scaled_linear(hidden, down, factor, activation)
        theirs = down(activated(hidden)) * (1 if factor is None else factor)
        agree(ours, theirs, [hidden, *down.parameters(), *factors], rtol)
    ours = feed_forward(x, norm, up, activation, down, scale)
    every = [x, scale, *norm.parameters(), *up.parameters(), *down.parameters()]
    agree(ours, scale * down(activated(up(norm(x)))), every, rtol)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_under_autocast_products_compute_in_its_type_and_their_weights_keep_their_own(activation: Activation) -> None:
    norm, up, down, scale = layers(torch.float32, activation)
    x = drawn(ROWS, WIDTH, seed=3, dtype=torch.float32)
    every = [x, scale, *norm.parameters(), *up.parameters(), *down.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        ours = feed_forward(x, norm, up, activation, down, scale)
        composed = scaled_linear(norm_linear(x, norm, up), down, scale, activation)
    assert ours.dtype == composed.dtype == torch.bfloat16
    for mine in (ours, composed):
        agree(mine.float(), scale * down(ACTIVATED[activation](up(norm(x)))), every, 0.05)


@pytest.mark.parametrize("short", [True, False])
def test_each_crop_attends_to_itself_alone(monkeypatch: pytest.MonkeyPatch, short: bool) -> None:
    monkeypatch.setattr(attention, "SHORT", 128 if short else 0)
    shapes, heads, width = [(2, 5), (3, 2)], 3, 12
    qkv = drawn(16, 3 * width)
    mixed, start = [], 0
    for crops, length in shapes:
        for _ in range(crops):
            q, k, v = qkv[start : start + length].view(length, 3, heads, -1).unbind(1)  # (T, h, D / h)
            weights = (torch.einsum("ihd,jhd->hij", q, k) / 2).softmax(-1)  # D / h is 4
            mixed.append(torch.einsum("hij,jhd->ihd", weights, v).flatten(1))
            start += length
    agree(attend(qkv, shapes, heads), torch.cat(mixed), [qkv], 1e-12)
