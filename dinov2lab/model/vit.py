"""The backbone: a Vision Transformer, run on crops of several sizes in one packed pass.

Norms, projections and MLPs see the tokens of all crops at once; attention stays within a crop. Weights have the names and
shapes of timm's, so that they travel; the mask token is ours.

    B crops of one size   T tokens of a crop: class token, R registers, N patches   D width
    S = sum of B * T over the sizes: the packed tokens             G sizes
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2lab.model.attention import split
from dinov2lab.model.blocks import EPSILON, Kept, PackedBlock
from dinov2lab.model.initial import draw
from dinov2lab.model.products import Activation
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.resources import Recompute


class Tokens(NamedTuple):
    """Normalised output tokens of the crops of one size."""

    cls: Tensor  # (B, D)
    patches: Tensor  # (B, N, D)


class PatchEmbedding(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)


class VisionTransformer(nn.Module):
    """What timm's class of this name holds."""

    reg_token: nn.Parameter

    def __init__(self, model: ModelSpec, px: int) -> None:
        super().__init__()
        dim, depth, heads = model.architecture
        patches = (px // model.patch) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if model.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, model.registers, dim))
        # Of networks with registers, released ones too, the class token holds its position; see `positions_at`.
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + (not model.registers), dim))
        self.patch_embed = PatchEmbedding(dim, model.patch)
        activation: Activation = "swiglu" if model.ffn == "swiglu" else "gelu"
        self.blocks = nn.ModuleList(PackedBlock(dim, heads, model.hidden, activation) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPSILON)


class Backbone(nn.Module):
    """ViT with a mask token, no drop path of its own: which crops a branch drops is handed in, see `kept`."""

    def __init__(self, model: ModelSpec, px: int) -> None:
        super().__init__()
        self.vit = VisionTransformer(model, px)
        self.dim, self.depth, self.heads = model.architecture
        self.mask_token = nn.Parameter(torch.zeros(1, self.dim))
        self.registers, self.layer_scale = model.registers, model.layer_scale
        self.linear_init = model.linear_init

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Weights as in the reference: truncated normal 0.02 for linear layers and positions, 1e-6 for the other tokens.

        The patch embedding is a convolution and keeps what torch gives one: uniform within 1 / sqrt(inputs). With registers
        timm's class token holds its position as well, and starts as their sum would. `xavier` draws linear layers and the
        patch embedding's weight its own way, and leaves the rest.
        """
        bound = self.vit.patch_embed.proj.weight[0].numel() ** -0.5
        for name, parameter in self.named_parameters():
            if self.linear_init == "xavier" and name.endswith("weight") and "norm" not in name:
                draw(parameter, "xavier", generator, parts=3 if "qkv" in name else 1)
            elif "patch_embed" in name:
                parameter.uniform_(-bound, bound, generator=generator)
            elif name.endswith("bias") or name == "mask_token":
                parameter.zero_()
            elif name.endswith("gamma"):
                parameter.fill_(self.layer_scale)
            elif "norm" in name:
                parameter.fill_(1.0)
            elif name.endswith("reg_token") or (name.endswith("cls_token") and not self.registers):
                parameter.normal_(std=1e-6, generator=generator)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def forward(
        self,
        crops: Sequence[Tensor],
        masks: Tensor | None = None,
        kept: Sequence[tuple[Kept, Kept]] | None = None,
        recompute: Recompute = "nothing",
    ) -> list[Tokens]:
        """Tokens of each size of `crops`, G tensors (B, 3, H, W).

        `masks`: (B, N) bool, patches of the first size to be replaced by the mask token.
        `kept`: for each block, what its attention and its MLP branch compute (stochastic depth); none computes all.
        `recompute`: what the backward pass computes once more, to save memory.
        """
        embedded = [self.embed(images, masks if size == 0 else None) for size, images in enumerate(crops)]
        shapes = [(tokens.shape[0], tokens.shape[1]) for tokens in embedded]
        x = torch.cat([tokens.flatten(0, 1) for tokens in embedded])  # (S, D)
        for index, block in enumerate(self.vit.blocks):
            x = block(x, shapes, kept[index] if kept else None, recompute)
        return [self._tokens(part, *shape) for part, shape in zip(split(x, shapes), shapes, strict=True)]

    def last(self, images: Tensor, count: int) -> list[Tokens]:
        """What the last `count` blocks give of images (B, 3, H, W), each under the final norm; all where it has fewer."""
        embedded = self.embed(images, None)
        b, t, _ = embedded.shape
        x, found = embedded.flatten(0, 1), []
        for index, block in enumerate(self.vit.blocks):
            x = block(x, [(b, t)])
            if index >= self.depth - count:
                found.append(self._tokens(x, b, t))
        return found

    def attention(self, images: Tensor) -> Tensor:
        """(B, heads, N) what the class token of the last block attends to among the patches of images (B, 3, H, W)."""
        embedded = self.embed(images, None)
        b, t, _ = embedded.shape
        *before, block = self.vit.blocks
        x = embedded.flatten(0, 1)
        for each in before:
            x = each(x, [(b, t)])
        assert isinstance(block, PackedBlock)
        q, k, _ = (
            block.attn.qkv(block.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )  # (B, h, T, D / h)
        weights: Tensor = (q[:, :, :1] @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)  # (B, h, 1, T)
        return weights[:, :, 0, 1 + self.registers :]

    def _tokens(self, x: Tensor, b: int, t: int) -> Tokens:
        """Of the packed output (B T, D) of a block."""
        tokens = self.vit.norm(x).view(b, t, -1)
        return Tokens(tokens[:, 0], tokens[:, 1 + self.registers :])

    def embed(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """(B, T, D): patches, masked ones replaced before the positions are added, behind class token and registers."""
        patches = self.vit.patch_embed.proj(images)  # (B, D, h, w)
        grid = (patches.shape[2], patches.shape[3])
        patches = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        if masks is not None:
            patches = torch.where(masks[..., None], self.mask_token.to(patches.dtype), patches)
        positions = positions_at(self.vit.pos_embed, grid, self.registers)
        first = [self.vit.cls_token.expand(patches.shape[0], -1, -1)]
        if self.registers:
            return torch.cat([*first, self.vit.reg_token.expand(patches.shape[0], -1, -1), patches + positions], dim=1)
        return torch.cat([*first, patches], dim=1) + positions


def positions_at(positions: Tensor, grid: tuple[int, int], registers: int) -> Tensor:
    """The position embeddings of a square grid of patches, resampled to another `grid` as the reference does.

    Without registers (1, 1 + N, D), the class token's first, in bicubic steps of N / (n + 0.1); with registers (1, N, D),
    antialiased and without that offset (dinov2, models/vision_transformer.py, interpolate_pos_encoding).
    """
    side = math.isqrt(positions.shape[1])  # of N patches, with or without the class token
    if grid == (side, side):
        return positions
    prefix, patches = positions.split([positions.shape[1] - side**2, side**2], dim=1)
    picture = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, D, side, side)
    if registers:
        picture = F.interpolate(picture, size=grid, mode="bicubic", antialias=True)
    else:
        offset = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        picture = F.interpolate(picture, scale_factor=offset, mode="bicubic")
    return torch.cat([prefix, picture.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)
