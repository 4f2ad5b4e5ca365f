"""The Transformer (Vaswani 2017): encoder-only, decoder-only or both, by which stacks its config holds.

B: batch, T: tokens, S: encoder's tokens, W: width, V: vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .attention import Attention
from .cache import Cache
from .config import TransformerConfig
from .heads import VocabularyHead
from .norm import RMSNorm
from .positions import LearnedPositions
from .stack import Stack


@dataclass(slots=True)
class AttentionRecord:
    """Attention weights of every layer that a pass went through, each [B, H, T, S]."""

    encoder: list[Tensor] = field(default_factory=list)
    decoder: list[Tensor] = field(default_factory=list)
    cross: list[Tensor] = field(default_factory=list)


class Transformer(nn.Module):
    """From ids to hidden states by `encode` and `decode`, and to `logits` from there.

    Masks are 1 or True at real tokens and 0 at padding, which may be left or right. Positions count real tokens
    alone, so padding moves nothing.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Stack(config.width, config.encoder) if config.encoder else None
        shared = self.encoder.embeddings.tokens if self.encoder and config.shared_embeddings else None
        self.decoder = Stack(config.width, config.decoder, shared) if config.decoder else None
        self.head = VocabularyHead(config)

    def encode(
        self,
        ids_BS: Tensor,
        mask_BS: Tensor | None = None,
        token_types_BS: Tensor | None = None,
        record: AttentionRecord | None = None,
    ) -> Tensor:
        """The encoder's hidden states, [B, S, W].

        Raises:
            ContextOverflow: S is more than the encoder's context.
        """
        assert self.encoder is not None, "this Transformer has no encoder"
        out_BSW: Tensor = self.encoder(
            ids_BS, mask_BS, token_types_BT=token_types_BS, weights=record.encoder if record else None
        )
        return out_BSW

    def decode(
        self,
        ids_BT: Tensor,
        mask_BT: Tensor | None = None,
        *,
        memory_BSW: Tensor | None = None,
        memory_mask_BS: Tensor | None = None,
        cache: Cache | None = None,
        record: AttentionRecord | None = None,
    ) -> Tensor:
        """The decoder's hidden states, [B, T, W].

        Args:
            ids_BT: the whole sequences, or with a cache the tokens that follow those in it.
            mask_BT: which of them are real; with a cache, padding must be on the right.
            memory_BSW: the encoder's output, where there is one; with a cache, at the first pass alone.
            memory_mask_BS: which of the encoder's tokens are real.
            cache: takes in the new tokens, and is read for the earlier ones.
            record: takes in every layer's attention weights.

        Raises:
            ContextOverflow: the tokens, with those in the cache, are more than the decoder's context.
        """
        assert self.decoder is not None, "this Transformer has no decoder"
        out_BTW: Tensor = self.decoder(
            ids_BT,
            mask_BT,
            memory_BSW=memory_BSW,
            memory_mask_BS=memory_mask_BS,
            cache=cache,
            weights=record.decoder if record else None,
            cross_weights=record.cross if record else None,
        )
        return out_BTW

    def logits(self, hidden_BTW: Tensor) -> Tensor:
        """Unnormalised log-probabilities over the vocabulary, [B, T, V], of the last stack's hidden states."""
        stack = self.decoder or self.encoder
        assert stack is not None
        logits_BTV: Tensor = self.head(hidden_BTW, stack.embeddings.tokens.weight)
        return logits_BTV

    def forward(
        self,
        ids_BT: Tensor,
        mask_BT: Tensor | None = None,
        *,
        decoder_ids_BT: Tensor | None = None,
        decoder_mask_BT: Tensor | None = None,
        token_types_BT: Tensor | None = None,
        record: AttentionRecord | None = None,
    ) -> Tensor:
        """Logits of whole sequences, [B, T, V]: of `ids_BT`, or of `decoder_ids_BT` where there are both stacks."""
        if self.decoder is None:
            return self.logits(self.encode(ids_BT, mask_BT, token_types_BT, record))
        if self.encoder is None:
            return self.logits(self.decode(ids_BT, mask_BT, record=record))
        assert decoder_ids_BT is not None, "an encoder-decoder needs decoder_ids_BT"
        memory_BSW = self.encode(ids_BT, mask_BT, token_types_BT, record)
        hidden_BTW = self.decode(decoder_ids_BT, decoder_mask_BT, memory_BSW=memory_BSW, memory_mask_BS=mask_BT, record=record)
        return self.logits(hidden_BTW)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fresh weights: normal with the config's `init_std` for matrices and tables, zero biases, unit norms."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            match module:
                case nn.Linear() | nn.Embedding() | LearnedPositions():
                    module.weight.normal_(0.0, self.config.init_std, generator=generator)
                case VocabularyHead() if module.weight is not None:
                    module.weight.normal_(0.0, self.config.init_std, generator=generator)
                case nn.LayerNorm() | RMSNorm():
                    module.weight.fill_(1.0)
                case _:
                    pass
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias.zero_()

    def fuse(self) -> None:
        """Prepare for inference: every self-attention projects queries, keys and values by one matrix."""
        for stack in (self.encoder, self.decoder):
            for block in stack.blocks if stack else ():
                attention = block.attention
                assert isinstance(attention, Attention)
                attention.fuse()
