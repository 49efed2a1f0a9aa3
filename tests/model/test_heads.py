"""The projection head against torch's own weight norm."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dinov2lab.model.heads import ProjectionHead
from dinov2lab.spec.run import Head

HEAD = Head(prototypes=12, hidden=32, bottleneck=6)


def head() -> ProjectionHead:
    built = ProjectionHead(8, HEAD)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(math.nan)
    built.initialise(torch.Generator().manual_seed(0))
    return built


def test_initialise_sets_every_parameter():
    for name, parameter in head().named_parameters():
        assert torch.isfinite(parameter).all(), name
    assert (head().prototype_scale == 1).all()
    assert abs(head().mlp[2].weight.std().item() - 0.02) < 0.002


def test_xavier_draws_the_linear_layers_within_its_bound():
    built = ProjectionHead(8, HEAD, "xavier")
    built.initialise(torch.Generator().manual_seed(0))
    for layer, (inputs, outputs) in zip(built.mlp[::2], ((8, 32), (32, 32), (32, 6)), strict=True):
        bound = math.sqrt(6 / (inputs + outputs))
        assert 0.9 * bound < layer.weight.abs().max().item() <= bound
        assert (layer.bias == 0).all()


def test_scores_are_cosines_with_the_prototypes_at_first():
    built, tokens = head().double(), torch.randn(5, 8, dtype=torch.float64)
    expected = F.cosine_similarity(built.mlp(tokens)[:, None], built.prototypes[None], dim=-1)
    torch.testing.assert_close(built(tokens), expected)


def test_the_last_layer_is_a_weight_normed_linear_layer_without_bias():
    built, tokens = head().double(), torch.randn(5, 8, dtype=torch.float64)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(6, 12, bias=False)).double()
    with torch.no_grad():
        built.prototype_scale.uniform_(0.5, 2.0)
        last.parametrizations.weight.original0.copy_(built.prototype_scale)
        last.parametrizations.weight.original1.copy_(built.prototypes)
    expected = last(F.normalize(built.mlp(tokens), dim=-1))
    torch.testing.assert_close(built(tokens), expected)
    ours = torch.autograd.grad(
        built(tokens).sin().sum(), [built.prototype_scale, built.prototypes, built.mlp[0].weight]
    )
    normed = last.parametrizations.weight
    theirs = torch.autograd.grad(expected.sin().sum(), [normed.original0, normed.original1, built.mlp[0].weight])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
