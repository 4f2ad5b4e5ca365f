"""A block is its parts in the order of the paper, with the norm first or after."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gamut.nn.attention import Attention, View
from gamut.nn.block import Block, Residual
from gamut.nn.config import AttentionConfig, FeedForwardConfig
from gamut.nn.feedforward import FeedForward

WIDTH = 6


def normed(residual: Residual, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, (WIDTH,), residual.norm.weight, residual.norm.bias)


def build(spread, *, norm_first: bool, cross: bool) -> Block:
    heads = AttentionConfig(heads=2, kv_heads=2, head_dim=3)
    residual = lambda: Residual(nn.LayerNorm(WIDTH), norm_first=norm_first, dropout=0.0)  # noqa: E731
    across = (Attention(WIDTH, heads), residual()) if cross else (None, None)
    feed_forward = FeedForward(WIDTH, FeedForwardConfig(width=7, activation="relu"))
    return spread(Block(Attention(WIDTH, heads), residual(), *across, feed_forward, residual()))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_a_block_is_its_equations(spread, norm_first, cross):
    block, view = build(spread, norm_first=norm_first, cross=cross), View()
    x = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    memory = block.cross.keys_values(x.flip(1)) if cross else None
    sublayers = [(block.attention_residual, lambda x: block.attention(x, view))]
    if cross:
        sublayers.append((block.cross_residual, lambda x: block.cross.cross(x, memory, view)))
    sublayers.append((block.feed_forward_residual, block.feed_forward))
    expected = x
    for residual, sublayer in sublayers:
        if norm_first:
            expected = expected + sublayer(normed(residual, expected))
        else:
            expected = normed(residual, expected + sublayer(expected))
    torch.testing.assert_close(block(x, view, None, memory, view if cross else None), expected)


def test_dropout_is_on_the_sublayer_alone_and_in_training_alone():
    frame = Residual(nn.Identity(), norm_first=True, dropout=0.5)
    x, zeros = torch.full((1000,), 3.0), torch.ones(1000)
    assert torch.equal(frame.eval()(x, lambda _: zeros), torch.full((1000,), 4.0))
    torch.manual_seed(0)
    out = frame.train()(x, lambda _: zeros)
    assert set(out.tolist()) == {3.0, 5.0}  # dropped, or doubled to make up for those that were
