"""Matrix products with what stands before them, which keep less for the backward pass than their parts would.

Kept is the input of each; normalised and activated values are computed again from it, which is elementwise and cheap, and
LayerScale is folded into the weights, which are small, and not applied to the tokens, which are many. One set of functions
serves all devices: under autocast they compute in its type, as their parts would.

    S rows   D width of the input   H hidden width   E width of the output
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Activation = Literal["none", "gelu", "swiglu"]
Gradients = tuple[Tensor | None, ...]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(S, E) x @ weight.T + bias."""
    out: Tensor = _ActivatedLinear.apply(x, weight, bias, None, "none")
    return out


def scaled_linear(x: Tensor, layer: nn.Linear, scale: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """(S, E) scale * layer(activation(x)); `scale`: (E,) of LayerScale, or none."""
    out: Tensor = _ActivatedLinear.apply(x, layer.weight, layer.bias, scale, activation)
    return out


def norm_linear(x: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    """(S, E) layer(norm(x))."""
    out: Tensor = _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, layer.weight, layer.bias)
    return out


def feed_forward(
    x: Tensor, norm: nn.LayerNorm, up: nn.Linear, activation: Activation, down: nn.Linear, scale: Tensor | None
) -> Tensor:
    """(S, E) scale * down(activation(up(norm(x)))), keeping x alone: `up` is computed twice."""
    out: Tensor = _FeedForward.apply(
        x, norm.weight, norm.bias, norm.eps, up.weight, up.bias, activation, down.weight, down.bias, scale
    )
    return out


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias without a gradient, through oneDNN in float32 on the CPU (on AMD faster than MKL)."""
    if _onednn(x, weight):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor) -> bool:
    if (
        not len(x)
        or x.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    return x.dtype == weight.dtype == torch.float32 and bool(torch.backends.mkldnn.enabled)


class _Ambient:
    """The autocast of the forward pass, entered again around the backward one."""

    def __init__(self, x: Tensor) -> None:
        self.device = x.device.type
        self.enabled, self.dtype = torch.is_autocast_enabled(self.device), torch.get_autocast_dtype(self.device)

    def again(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, enabled=self.enabled)


def _activated(x: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "none":
            return x
        case "gelu":
            return F.gelu(x)
        case "swiglu":
            gate, value = x.chunk(2, dim=-1)
            return F.silu(gate) * value


def _activated_backward(gradient: Tensor, x: Tensor, activation: Activation) -> Tensor:
    """The gradient of x from that of what `_activated` makes of it."""
    match activation:
        case "none":
            return gradient
        case "gelu":
            return torch.ops.aten.gelu_backward(gradient, x)  # type: ignore[no-any-return]  # torch.ops has no types
        case "swiglu":
            gate, value = x.chunk(2, dim=-1)
            of_gate = torch.ops.aten.silu_backward(gradient * value, gate)
            return torch.cat([of_gate, gradient * F.silu(gate)], dim=-1)


def _norm(x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(normalised, mean, 1 / standard deviation)."""
    return torch.native_layer_norm(x, x.shape[-1:], gain.to(x.dtype), shift.to(x.dtype), eps)


def _norm_backward(gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gain: Tensor, shift: Tensor) -> Gradients:
    """Gradients of (x, gain, shift)."""
    return torch.ops.aten.native_layer_norm_backward(  # type: ignore[no-any-return]  # torch.ops has no types
        gradient.to(x.dtype), x, x.shape[-1:], mean, rstd, gain.to(x.dtype), shift.to(x.dtype), [True, True, True]
    )


def _folded(scale: Tensor | None, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if scale is None:
        return weight, bias
    return scale[:, None] * weight, None if bias is None else scale * bias


def _layer_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of (weight, bias, scale) of scale * (x @ weight.T + bias), from sums over the rows alone."""
    of_weight = gradient.t() @ x
    of_bias = None if bias is None else gradient.sum(0)
    if scale is None:
        return of_weight, of_bias, None
    of_scale = (of_weight * weight).sum(1)
    if bias is None or of_bias is None:
        return scale[:, None] * of_weight, None, of_scale
    return scale[:, None] * of_weight, scale * of_bias, of_scale + of_bias * bias


class _ActivatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, activation: Activation
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, scale)
        ctx.activation, ctx.ambient = activation, _Ambient(x)
        return times(_activated(x, activation), *_folded(scale, weight, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, weight, bias, scale = ctx.saved_tensors
        with ctx.ambient.again():
            of_layer = _layer_backward(gradient, _activated(x, ctx.activation), weight, bias, scale)
            if not ctx.needs_input_grad[0]:
                return None, *of_layer, None
            of_activated = times(gradient, _folded(scale, weight, None)[0].t())
            return _activated_backward(of_activated, x, ctx.activation), *of_layer, None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        normed, mean, rstd = _norm(x, gain, shift, eps)
        ctx.save_for_backward(x, mean, rstd, gain, shift, weight, bias)
        ctx.eps, ctx.ambient = eps, _Ambient(x)
        return times(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, mean, rstd, gain, shift, weight, bias = ctx.saved_tensors
        with ctx.ambient.again():
            of_weight, of_bias, _ = _layer_backward(gradient, _norm(x, gain, shift, ctx.eps)[0], weight, bias, None)
            of_norm = _norm_backward(times(gradient, weight.t()), x, mean, rstd, gain, shift)
        return *of_norm, None, of_weight, of_bias


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        shift: Tensor,
        eps: float,
        up: Tensor,
        up_bias: Tensor,
        activation: Activation,
        down: Tensor,
        down_bias: Tensor,
        scale: Tensor | None,
    ) -> Tensor:
        normed, mean, rstd = _norm(x, gain, shift, eps)
        ctx.save_for_backward(x, mean, rstd, gain, shift, up, up_bias, down, down_bias, scale)
        ctx.eps, ctx.activation, ctx.ambient = eps, activation, _Ambient(x)
        return times(_activated(times(normed, up, up_bias), activation), *_folded(scale, down, down_bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, mean, rstd, gain, shift, up, up_bias, down, down_bias, scale = ctx.saved_tensors
        with ctx.ambient.again():
            normed = _norm(x, gain, shift, ctx.eps)[0]
            hidden = times(normed, up, up_bias)
            of_down = _layer_backward(gradient, _activated(hidden, ctx.activation), down, down_bias, scale)
            of_activated = times(gradient, _folded(scale, down, None)[0].t())
            of_hidden = _activated_backward(of_activated, hidden, ctx.activation)
            del hidden, of_activated
            of_up, of_up_bias, _ = _layer_backward(of_hidden, normed, up, up_bias, None)
            of_norm = _norm_backward(times(of_hidden, up.t()), x, mean, rstd, gain, shift)
        return *of_norm, None, of_up, of_up_bias, None, *of_down
