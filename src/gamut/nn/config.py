"""The shape of a Transformer as plain data: what its parts are and how large, nothing about weights or files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NormKind = Literal["layer", "rms"]


@dataclass(frozen=True, slots=True)
class NormConfig:
    """LayerNorm (Ba 2016) or RMSNorm (Zhang 2019)."""

    kind: NormKind
    eps: float


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """Multi-head attention (Vaswani 2017, section 3.2.2), with grouped heads where `kv_heads` < `heads` (Ainslie 2023)."""

    heads: int
    kv_heads: int
    head_dim: int
    """Size of one head; it need not be width / heads."""
    qkv_bias: bool = True
    out_bias: bool = True
    dropout: float = 0.0
    """Probability with which an attention weight is dropped in training."""
    scale: float | None = None
    """Factor on the scores; ``None`` is 1 / sqrt(head_dim)."""

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")


@dataclass(frozen=True, slots=True)
class FeedForwardConfig:
    """The position-wise network (Vaswani 2017, section 3.3), gated where `gated` is set (Shazeer 2020)."""

    width: int
    """Size of the inner layer."""
    activation: str
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0
    """Probability with which an inner activation is dropped in training."""


@dataclass(frozen=True, slots=True)
class SinusoidalConfig:
    """Fixed waves added to the embeddings (Vaswani 2017, section 3.5), sines in the first half, cosines in the second."""


@dataclass(frozen=True, slots=True)
class LearnedConfig:
    """A trained vector per position, added to the embeddings."""


@dataclass(frozen=True, slots=True)
class RotaryConfig:
    """Queries and keys turned by an angle that grows with the position (Su 2021)."""

    base: float = 10000.0


PositionsConfig = SinusoidalConfig | LearnedConfig | RotaryConfig


@dataclass(frozen=True, slots=True)
class StackConfig:
    """A stack of equal blocks with its embeddings: an encoder, or a decoder where `causal` is set."""

    layers: int
    vocab_size: int
    context: int
    """Most tokens that the stack takes in at once, those in the cache counted."""
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    norm: NormConfig
    positions: PositionsConfig
    norm_first: bool
    """Normalise before each sub-layer (GPT-2, LLaMA) rather than after the residual sum (the original, BERT)."""
    causal: bool = False
    cross_attention: bool = False
    """Each block also attends to an encoder's output."""
    final_norm: bool = False
    """One more norm after the last block; goes with `norm_first`."""
    embedding_scale: float = 1.0
    """Factor on the token embeddings; the original multiplies by sqrt(width)."""
    embedding_norm: bool = False
    token_types: int = 0
    """Number of segment embeddings (BERT's sentence A and B); 0: none."""
    dropout: float = 0.0
    """Probability of dropout on every sub-layer's output, in training."""
    embedding_dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """From hidden states to logits over the vocabulary."""

    tied: bool = True
    """The output matrix is the token embedding (Press and Wolf 2017)."""
    bias: bool = False
    transform: str | None = None
    """Activation of a dense layer with norm in front, as BERT's masked-LM head has; ``None``: no such layer."""


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """One Transformer: encoder-only, decoder-only, or both, by which stacks there are."""

    width: int
    """Size of the hidden states (d_model)."""
    encoder: StackConfig | None
    decoder: StackConfig | None
    head: HeadConfig
    shared_embeddings: bool = False
    """Encoder and decoder use one table of token embeddings."""
    init_std: float = 0.02
    """Standard deviation of fresh weights."""

    def __post_init__(self) -> None:
        if self.encoder is None and self.decoder is None:
            raise ValueError("a Transformer needs an encoder, a decoder or both")

    @property
    def output_stack(self) -> StackConfig:
        """The stack whose hidden states become logits: the decoder where there is one."""
        stack = self.decoder or self.encoder
        assert stack is not None  # __post_init__
        return stack

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the logits range over."""
        return self.output_stack.vocab_size

    @property
    def context(self) -> int:
        """Most tokens of the stack that text goes into first: the encoder where there is one."""
        return (self.encoder or self.output_stack).context
