"""The key-value cache of a decoder: preallocated, passed in by the caller, one place per row and token.

A row fills its places from 0 on, whatever its neighbours do, so rows of unequal length need no padding mask: a query
at position p sees the keys at positions up to p, and nothing else of its row has been written there.

B: rows, K: key-value heads, C: capacity, S: keys in use, T: new tokens, D: head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import StackConfig


class LayerCache:
    """Keys and values of one attention layer, [B, K, C, D] each."""

    def __init__(self, k_BKCD: Tensor, v_BKCD: Tensor) -> None:
        self.k_BKCD, self.v_BKCD = k_BKCD, v_BKCD

    def append(self, k_BKTD: Tensor, v_BKTD: Tensor, places: slice | Tensor, used: int) -> tuple[Tensor, Tensor]:
        """Write the new keys and values at `places` (a slice, or [B, T] for uneven rows); return all in use, [B, K, S, D]."""
        if isinstance(places, slice):
            self.k_BKCD[:, :, places] = k_BKTD
            self.v_BKCD[:, :, places] = v_BKTD
        else:
            rows_B1 = torch.arange(len(places), device=places.device)[:, None]
            self.k_BKCD[rows_B1, :, places] = k_BKTD.transpose(1, 2)
            self.v_BKCD[rows_B1, :, places] = v_BKTD.transpose(1, 2)
        return self.k_BKCD[:, :, :used], self.v_BKCD[:, :, :used]

    def select(self, rows: Tensor, used: int) -> None:
        """Keep these rows, in this order; a row may be repeated."""
        self.k_BKCD, self.v_BKCD = _pick(self.k_BKCD, rows, used), _pick(self.v_BKCD, rows, used)


def _pick(x_BKCD: Tensor, rows: Tensor, used: int) -> Tensor:
    picked = x_BKCD[:, :, :used].index_select(0, rows)
    out = x_BKCD[: len(rows)] if len(rows) <= len(x_BKCD) else x_BKCD.new_zeros(len(rows), *x_BKCD.shape[1:])
    out[:, :, :used] = picked
    return out


class Cache:
    """What a decoder remembers of the tokens that it has read: of its own, and of the encoder's output."""

    def __init__(self, config: StackConfig, *, rows: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        heads, head_dim = config.attention.kv_heads, config.attention.head_dim
        self.capacity = capacity
        self.lengths = [0] * rows
        """Tokens held, per row."""
        # Zeros, as a row reads places that only its longer neighbours have filled: masked out, but 0 times NaN is NaN.
        self.layers = [
            LayerCache(*(torch.zeros(rows, heads, capacity, head_dim, dtype=dtype, device=device) for _ in range(2)))
            for _ in range(config.layers)
        ]
        self.cross: list[tuple[Tensor, Tensor] | None] = [None] * config.layers
        """Keys and values of the encoder's output, computed at the first pass, [B, K, S, D]."""
        self.memory_mask: Tensor | None = None
        """Which of the encoder's positions may be seen, [B, 1, 1, S]; ``None``: all."""

    @property
    def has_memory(self) -> bool:
        """Whether the encoder's output has been taken in."""
        return bool(self.cross) and self.cross[0] is not None

    def places(self, counts: Sequence[int], width: int, device: torch.device) -> tuple[Tensor, slice | Tensor, int]:
        """Where `width` new tokens a row go, of which the first `counts` of each row are real.

        Returns:
            positions [B, width], the places for `LayerCache.append`, and how many places are in use afterwards.
        """
        longest = max(self.lengths)
        if longest == min(self.lengths):
            positions = torch.arange(longest, longest + width, device=device).expand(len(counts), width)
            places: slice | Tensor = slice(longest, longest + width)
        else:
            positions = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(width, device=device)
            places = positions
        return positions, places, longest + width

    def advance(self, counts: Sequence[int]) -> None:
        """Count the new tokens as held."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order: drops finished rows, repeats one for several samples, reorders beams."""
        if list(rows) == list(range(len(self.lengths))):
            return
        index = torch.tensor(rows, dtype=torch.long, device=self.layers[0].k_BKCD.device)
        used = max(self.lengths)
        for layer in self.layers:
            layer.select(index, used)
        self.cross = [None if kv is None else (kv[0][index], kv[1][index]) for kv in self.cross]
        self.memory_mask = None if self.memory_mask is None else self.memory_mask[index]
        self.lengths = [self.lengths[row] for row in rows]


def cache_bytes_per_token(config: StackConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token of one sequence takes in the cache."""
    return 2 * config.layers * config.attention.kv_heads * config.attention.head_dim * dtype.itemsize
