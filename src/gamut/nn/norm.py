"""Norms: LayerNorm and RMSNorm, chosen by a NormConfig.

B: batch, T: tokens, W: width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import NormConfig


class RMSNorm(nn.Module):
    """Divide by the root mean square over the width (Zhang and Sennrich 2019), computed in at least float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTW: Tensor) -> Tensor:
        if x_BTW.dtype is torch.float32:
            return F.rms_norm(x_BTW, self.weight.shape, self.weight, self.eps)
        return self.weight * F.rms_norm(x_BTW.float(), self.weight.shape, None, self.eps).to(x_BTW.dtype)


def build_norm(config: NormConfig, width: int) -> nn.Module:
    """The norm that `config` describes, over vectors of `width`."""
    return nn.LayerNorm(width, eps=config.eps) if config.kind == "layer" else RMSNorm(width, config.eps)
