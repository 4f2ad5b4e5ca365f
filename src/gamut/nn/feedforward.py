"""The position-wise network of a block, and the activations by their Hugging Face names.

B: batch, T: tokens, W: width, F: inner width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import FeedForwardConfig
from .linear import Linear

Activation = Callable[[Tensor], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""GELU: Hendrycks and Gimpel 2016, its tanh form in section 2; SiLU: section 4 there, and Ramachandran 2017."""


class FeedForward(nn.Module):
    """down(f(up(x))), or down(f(gate(x)) * up(x)) where gated (Vaswani 2017, equation 2; Shazeer 2020, equation 6)."""

    def __init__(self, width: int, config: FeedForwardConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gate = Linear(width, config.width, bias=config.bias) if config.gated else None
        self.up = Linear(width, config.width, bias=config.bias)
        self.down = Linear(config.width, width, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x_BTW: Tensor) -> Tensor:
        inner_BTF = self.activation(self.up(x_BTW)) if self.gate is None else self.activation(self.gate(x_BTW)) * self.up(x_BTW)
        if self.training and self.dropout:
            inner_BTF = F.dropout(inner_BTF, self.dropout)
        out_BTW: Tensor = self.down(inner_BTF)
        return out_BTW
