"""From ids to logits: the Transformer and its parts."""

from .cache import Cache
from .config import (
    AttentionConfig,
    FeedForwardConfig,
    HeadConfig,
    LearnedConfig,
    NormConfig,
    RotaryConfig,
    SinusoidalConfig,
    StackConfig,
    TransformerConfig,
)
from .transformer import AttentionRecord, Transformer

__all__ = [
    "AttentionConfig",
    "AttentionRecord",
    "Cache",
    "FeedForwardConfig",
    "HeadConfig",
    "LearnedConfig",
    "NormConfig",
    "RotaryConfig",
    "SinusoidalConfig",
    "StackConfig",
    "Transformer",
    "TransformerConfig",
]
