"""The feed-forward layer is its formula, and so are the activations. tests/parity holds them against transformers."""

from __future__ import annotations

from math import erf, exp, pi, sqrt, tanh

import pytest
import torch

from gamut.nn.config import FeedForwardConfig
from gamut.nn.feedforward import ACTIVATIONS, FeedForward


def gelu_tanh(x: float) -> float:
    return x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x / 2 * (1 + erf(x / sqrt(2))),
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": lambda x: x / (1 + exp(-1.702 * x)),
    "silu": lambda x: x / (1 + exp(-x)),
    "swish": lambda x: x / (1 + exp(-x)),
    "tanh": tanh,
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name):
    x = torch.linspace(-6, 6, 49)
    expected = torch.tensor([FORMULAS[name](value) for value in x.tolist()])
    torch.testing.assert_close(ACTIVATIONS[name](x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_plain(spread, bias):
    layer = spread(FeedForward(3, FeedForwardConfig(width=5, activation="relu", bias=bias)))
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    up, down = layer.up.weight, layer.down.weight
    inner = x @ up.T + (layer.up.bias if bias else 0)
    torch.testing.assert_close(layer(x), inner.clamp(min=0) @ down.T + (layer.down.bias if bias else 0))
    assert {name for name, _ in layer.named_parameters() if "bias" in name} == ({"up.bias", "down.bias"} if bias else set())


def test_gated(spread):
    layer = spread(FeedForward(3, FeedForwardConfig(width=5, activation="silu", gated=True, bias=False)))
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    gate, up = x @ layer.gate.weight.T, x @ layer.up.weight.T
    torch.testing.assert_close(layer(x), (gate * gate.sigmoid() * up) @ layer.down.weight.T)


def test_dropout_acts_in_training_alone(spread):
    layer = spread(FeedForward(8, FeedForwardConfig(width=64, activation="relu", dropout=0.5)))
    x = torch.ones(1, 8)
    assert torch.equal(layer(x), layer(x))
    torch.manual_seed(0)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
