"""How a stack knows the order of its tokens. Each kind acts at one place and leaves the others alone.

B: batch, T: tokens, W: width, D: head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import LearnedConfig, PositionsConfig, RotaryConfig, SinusoidalConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines, each [B, T, 1, D], by which queries and keys are turned."""


class Positions(nn.Module):
    """Base of all kinds: by default nothing is added and nothing is turned."""

    def embed(self, positions_BT: Tensor, length: int) -> Tensor | None:  # noqa: ARG002 - the kinds that add something need it
        """What is added to the token embeddings, [B, T, W], or ``None``; every position is below `length`."""
        return None

    def rotation(self, positions_BT: Tensor, length: int, dtype: torch.dtype) -> Rotation | None:  # noqa: ARG002 - likewise
        """By what queries and keys are turned, or ``None``; every position is below `length`."""
        return None


class LearnedPositions(Positions):
    """One trained vector per position (Gehring 2017)."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context, width))

    def embed(self, positions_BT: Tensor, length: int) -> Tensor:  # noqa: ARG002 - the table has its full length
        return nn.functional.embedding(positions_BT, self.weight)


class SinusoidalPositions(Positions):
    """Waves of geometrically growing length (Vaswani 2017, section 3.5).

    Sines fill the first half of the width and cosines the second, as Marian lays them out; the paper interleaves
    them, which is the same up to a permutation of the width.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self._table: Tensor | None = None

    def embed(self, positions_BT: Tensor, length: int) -> Tensor:
        table = self._table
        if table is None or len(table) < length or table.device != positions_BT.device:
            self._table = table = sinusoids(_rounded_up(length), self.width).to(positions_BT.device)
        return table[positions_BT]


def sinusoids(context: int, width: int) -> Tensor:
    """The table of sinusoidal positions, [context, width], float32."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(context, dtype=torch.float64)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()[:, : width // 2]), dim=1).float()


class RotaryPositions(Positions):
    """Turn each pair (i, i + D/2) of a head by position * base^(-2i/D) (Su 2021, section 3.2)."""

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base
        self._table: tuple[Tensor, Tensor] | None = None

    def rotation(self, positions_BT: Tensor, length: int, dtype: torch.dtype) -> Rotation:
        table = self._table
        if table is None or len(table[0]) < length or table[0].device != positions_BT.device or table[0].dtype != dtype:
            rates = 1.0 / self.base ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)
            angles = torch.arange(_rounded_up(length), dtype=torch.float32)[:, None] * rates
            cos, sin = angles.cos(), angles.sin()
            # The sign of the rotation lives in the table, so that `rotate` needs three operations.
            whole = torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)
            self._table = table = whole[0].to(positions_BT.device, dtype), whole[1].to(positions_BT.device, dtype)
        cos_CD, sin_CD = table
        return cos_CD[positions_BT].unsqueeze(2), sin_CD[positions_BT].unsqueeze(2)


def _rounded_up(length: int) -> int:
    """A length to make a table for: a power of two, so that a growing sequence seldom needs a new one."""
    return max(64, 1 << (length - 1).bit_length())


def rotate(x_BTHD: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys: (x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1 sin)."""
    cos_BT1D, sin_BT1D = rotation
    return torch.addcmul(x_BTHD * cos_BT1D, x_BTHD.roll(x_BTHD.shape[-1] // 2, -1), sin_BT1D)


def build_positions(config: PositionsConfig, *, context: int, width: int, head_dim: int) -> Positions:
    """The kind of positions that `config` describes."""
    match config:
        case SinusoidalConfig():
            return SinusoidalPositions(width)
        case LearnedConfig():
            return LearnedPositions(context, width)
        case RotaryConfig():
            return RotaryPositions(head_dim, config.base)
