"""Heads: what is read off the hidden states. Here the one over the vocabulary; it serves causal and masked models.

B: batch, T: tokens, W: width, V: vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import NormConfig, TransformerConfig
from .feedforward import ACTIVATIONS
from .linear import Linear, linear
from .norm import build_norm


class VocabularyHead(nn.Module):
    """Logits over the vocabulary; a tied head keeps no matrix of its own, so tying cannot come undone."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transform = (
            HeadTransform(config.width, config.head.transform, config.output_stack.norm) if config.head.transform else None
        )
        self.weight = None if config.head.tied else nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head.bias else None

    def forward(self, hidden_BTW: Tensor, embedding_VW: Tensor) -> Tensor:
        if self.transform is not None:
            hidden_BTW = self.transform(hidden_BTW)
        return linear(hidden_BTW, embedding_VW if self.weight is None else self.weight, self.bias)


class HeadTransform(nn.Module):
    """The dense layer, activation and norm that BERT puts before its output matrix (Devlin 2019, its released code)."""

    def __init__(self, width: int, activation: str, norm: NormConfig) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.activation = ACTIVATIONS[activation]
        self.norm = build_norm(norm, width)

    def forward(self, hidden_BTW: Tensor) -> Tensor:
        out_BTW: Tensor = self.norm(self.activation(self.dense(hidden_BTW)))
        return out_BTW
