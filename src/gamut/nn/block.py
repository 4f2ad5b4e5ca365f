"""One block of a stack: self-attention, cross-attention where there is an encoder to look at, feed-forward.

B: batch, T: tokens, W: width.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, View
from .cache import LayerCache
from .feedforward import FeedForward


class Residual(nn.Module):
    """The frame around a sub-layer: x + f(norm(x)) with the norm first, norm(x + f(x)) with the norm after."""

    def __init__(self, norm: nn.Module, *, norm_first: bool, dropout: float) -> None:
        super().__init__()
        self.norm, self.norm_first, self.dropout = norm, norm_first, dropout

    def forward(self, x_BTW: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x_BTW + self._drop(sublayer(self.norm(x_BTW)))
        normed: Tensor = self.norm(x_BTW + self._drop(sublayer(x_BTW)))
        return normed

    def _drop(self, x_BTW: Tensor) -> Tensor:
        return F.dropout(x_BTW, self.dropout) if self.training and self.dropout else x_BTW


class Block(nn.Module):
    """A layer of a stack, made of the parts that it is given (Vaswani 2017, figure 1)."""

    def __init__(
        self,
        attention: Attention,
        attention_residual: Residual,
        cross: Attention | None,
        cross_residual: Residual | None,
        feed_forward: FeedForward,
        feed_forward_residual: Residual,
    ) -> None:
        super().__init__()
        self.attention, self.attention_residual = attention, attention_residual
        self.cross, self.cross_residual = cross, cross_residual
        self.feed_forward, self.feed_forward_residual = feed_forward, feed_forward_residual

    def forward(
        self,
        x_BTW: Tensor,
        view: View,
        cache: LayerCache | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
        memory_view: View | None = None,
    ) -> Tensor:
        """Pass hidden states through; `memory` is what this block's `cross.keys_values` made of the encoder's output."""
        x_BTW = self.attention_residual(x_BTW, lambda x: self.attention(x, view, cache))
        if self.cross is not None and self.cross_residual is not None:
            cross = self.cross
            assert memory is not None
            assert memory_view is not None
            x_BTW = self.cross_residual(x_BTW, lambda x: cross.cross(x, memory, memory_view))
        out_BTW: Tensor = self.feed_forward_residual(x_BTW, self.feed_forward)
        return out_BTW
