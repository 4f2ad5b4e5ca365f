"""A stack: embeddings, blocks, and the norm at the end; an encoder or a decoder by its config.

B: batch, T: tokens, S: encoder's tokens, W: width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ContextOverflow
from .attention import Attention, View
from .block import Block, Residual
from .cache import Cache
from .config import StackConfig
from .feedforward import FeedForward
from .norm import build_norm
from .positions import build_positions


class Embeddings(nn.Module):
    """From ids to vectors: token, position and segment, summed."""

    def __init__(self, width: int, config: StackConfig, tokens: nn.Embedding | None) -> None:
        super().__init__()
        self.scale, self.dropout = config.embedding_scale, config.embedding_dropout
        self.tokens = nn.Embedding(config.vocab_size, width) if tokens is None else tokens
        self.positions = build_positions(
            config.positions, context=config.context, width=width, head_dim=config.attention.head_dim
        )
        self.types = nn.Embedding(config.token_types, width) if config.token_types else None
        self.norm = build_norm(config.norm, width) if config.embedding_norm else None

    def forward(self, ids_BT: Tensor, positions_BT: Tensor, length: int, token_types_BT: Tensor | None) -> Tensor:
        x_BTW: Tensor = self.tokens(ids_BT)
        if self.scale != 1.0:
            x_BTW = x_BTW * self.scale
        if self.types is not None:
            x_BTW = x_BTW + self.types(torch.zeros_like(ids_BT) if token_types_BT is None else token_types_BT)
        if (waves_BTW := self.positions.embed(positions_BT, length)) is not None:
            x_BTW = x_BTW + waves_BTW.to(x_BTW.dtype)
        if self.norm is not None:
            x_BTW = self.norm(x_BTW)
        return F.dropout(x_BTW, self.dropout) if self.training and self.dropout else x_BTW


class Stack(nn.Module):
    """An encoder or a decoder."""

    def __init__(self, width: int, config: StackConfig, tokens: nn.Embedding | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(width, config, tokens)

        def residual() -> Residual:
            return Residual(build_norm(config.norm, width), norm_first=config.norm_first, dropout=config.dropout)

        self.blocks = nn.ModuleList(
            Block(
                Attention(width, config.attention),
                residual(),
                Attention(width, config.attention) if config.cross_attention else None,
                residual() if config.cross_attention else None,
                FeedForward(width, config.feed_forward),
                residual(),
            )
            for _ in range(config.layers)
        )
        self.norm = build_norm(config.norm, width) if config.final_norm else None

    def forward(
        self,
        ids_BT: Tensor,
        mask_BT: Tensor | None = None,
        *,
        token_types_BT: Tensor | None = None,
        memory_BSW: Tensor | None = None,
        memory_mask_BS: Tensor | None = None,
        cache: Cache | None = None,
        weights: list[Tensor] | None = None,
        cross_weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states of `ids_BT`, [B, T, W]; `Transformer.encode` and `Transformer.decode` explain the arguments."""
        length = (max(cache.lengths) if cache else 0) + ids_BT.shape[1]
        if length > self.config.context:
            raise ContextOverflow(
                f"{length} tokens do not fit the model's context of {self.config.context}"
                f"; shorten the text by {length - self.config.context} tokens"
            )
        counts = [ids_BT.shape[1]] * ids_BT.shape[0]
        if cache is None:
            positions_BT, view = self._whole(ids_BT, mask_BT)
        else:
            if mask_BT is not None:
                counts = mask_BT.sum(1).tolist()
            positions_BT, view = self._next(ids_BT, counts, cache)
        x_BTW = self.embeddings(ids_BT, positions_BT, length, token_types_BT)
        view.rotation = self.embeddings.positions.rotation(positions_BT, length, x_BTW.dtype)
        view.weights = weights
        memory_view = View(mask=_over_keys(memory_mask_BS), weights=cross_weights)
        if cache is not None:
            if memory_BSW is not None:
                cache.memory_mask = memory_view.mask
            memory_view.mask = cache.memory_mask
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            memory = self._memory(i, block, memory_BSW, cache)
            x_BTW = block(x_BTW, view, cache.layers[i] if cache else None, memory, memory_view)
        if cache is not None:
            cache.advance(counts)
        if self.norm is not None:
            x_BTW = self.norm(x_BTW)
        out_BTW: Tensor = x_BTW
        return out_BTW

    def _whole(self, ids_BT: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, View]:
        """Positions and view of sequences read at once; padding, left or right, takes no position and is not seen."""
        T = ids_BT.shape[1]
        if mask_BT is None:
            return torch.arange(T, device=ids_BT.device).expand_as(ids_BT), View(causal=self.config.causal)
        positions_BT = (mask_BT.long().cumsum(1) - 1).clamp(min=0)
        mask = mask_BT.bool()[:, None, None, :]
        # Padding sees itself, as a softmax over nothing would be NaN.
        own = torch.eye(T, dtype=torch.bool, device=ids_BT.device)
        mask = (mask & own.new_ones(T, T).tril() if self.config.causal else mask) | own
        return positions_BT, View(mask=mask)

    @staticmethod
    def _next(ids_BT: Tensor, counts: list[int], cache: Cache) -> tuple[Tensor, View]:
        """Positions and view of tokens that follow those in the cache."""
        T = ids_BT.shape[1]
        first, even = max(cache.lengths) == 0, max(cache.lengths) == min(cache.lengths)
        positions_BT, places, used = cache.places(counts, T, ids_BT.device)
        view = View(places=places, used=used)
        if first:
            view.causal = True
        elif T > 1 or not even:
            view.mask = torch.arange(used, device=ids_BT.device) <= positions_BT[:, None, :, None]
        return positions_BT, view

    @staticmethod
    def _memory(i: int, block: Block, memory_BSW: Tensor | None, cache: Cache | None) -> tuple[Tensor, Tensor] | None:
        """The encoder's keys and values for block `i`: computed once, then from the cache."""
        if block.cross is None:
            return None
        if memory_BSW is None:
            assert cache is not None
            return cache.cross[i]
        memory = block.cross.keys_values(memory_BSW)
        if cache is not None:
            cache.cross[i] = memory
        return memory


def _over_keys(mask_BS: Tensor | None) -> Tensor | None:
    return None if mask_BS is None else mask_BS.bool()[:, None, None, :]
