"""How large a Transformer is: parameters by part, and bytes at each precision."""

from __future__ import annotations

import torch

from .cache import cache_bytes_per_token
from .config import TransformerConfig
from .transformer import Transformer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parameters_by_part(transformer: Transformer) -> dict[str, int]:
    """Number of parameters of each part, a shared one counted once, where it comes first."""
    parts: dict[str, int] = {}
    for name, parameter in transformer.named_parameters():
        part = _part(name)
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def _part(name: str) -> str:
    stack, _, rest = name.partition(".")
    if stack == "head":
        return "head"
    inner = rest.split(".")
    if inner[0] == "embeddings":
        return f"{stack} {'norms' if inner[1] == 'norm' else 'embeddings'}"
    if inner[0] == "norm" or inner[2].endswith("_residual"):
        return f"{stack} norms"
    return f"{stack} {'cross-attention' if inner[2] == 'cross' else inner[2].replace('_', '-')}"


def weight_bytes(transformer: Transformer) -> dict[str, int]:
    """Bytes of all weights at each precision."""
    count = sum(p.numel() for p in transformer.parameters())
    return {name: count * dtype.itemsize for name, dtype in PRECISIONS.items()}


def cache_bytes(config: TransformerConfig) -> dict[str, int]:
    """Bytes of cache per token of one sequence at each precision; 0 without a decoder."""
    return {name: cache_bytes_per_token(config.decoder, dtype) if config.decoder else 0 for name, dtype in PRECISIONS.items()}
