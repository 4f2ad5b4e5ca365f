"""Positions: the waves of the paper, a table that is trained, and a rotation that knows distances alone."""

from __future__ import annotations

from math import cos, sin

import pytest
import torch

from gamut.nn.config import LearnedConfig, RotaryConfig, SinusoidalConfig
from gamut.nn.positions import LearnedPositions, RotaryPositions, build_positions, rotate, sinusoids


@pytest.mark.parametrize("width", [6, 7, 1, 2])
def test_sinusoids_are_those_of_the_paper_sorted_by_kind(width):
    table = sinusoids(5, width)
    assert table.shape == (5, width)
    for position in range(5):
        # Vaswani 2017, section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos of the same.
        paper = [(sin, cos)[i % 2](position / 10000 ** ((i - i % 2) / width)) for i in range(width)]
        assert table[position].tolist() == pytest.approx(paper[0::2] + paper[1::2], abs=1e-6)


def test_sinusoids_are_added_and_nothing_is_turned():
    positions = build_positions(SinusoidalConfig(), context=9, width=6, head_dim=2)
    ids = torch.tensor([[0, 1, 2], [5, 5, 8]])
    assert torch.equal(positions.embed(ids, 9), sinusoids(9, 6)[ids])
    assert positions.rotation(ids, 9, torch.float32) is None
    assert not list(positions.parameters())


def test_learned_positions_are_rows_of_a_table():
    positions = build_positions(LearnedConfig(), context=4, width=3, head_dim=2)
    assert isinstance(positions, LearnedPositions)
    with torch.no_grad():
        positions.weight.copy_(torch.arange(12.0).reshape(4, 3))
    assert positions.embed(torch.tensor([[3, 0]]), 8).tolist() == [[[9.0, 10.0, 11.0], [0.0, 1.0, 2.0]]]
    assert positions.rotation(torch.tensor([[0]]), 100, torch.float32) is None


@pytest.fixture
def rotary() -> RotaryPositions:
    built = build_positions(RotaryConfig(base=100.0), context=64, width=3, head_dim=6)
    assert isinstance(built, RotaryPositions)
    return built


def test_a_rotation_turns_each_pair_by_its_angle(rotary):
    x = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, rotary.rotation(torch.tensor([[7]]), 100, torch.float32))
    for i in range(3):
        angle = 7 * 100.0 ** (-2 * i / 6)
        a, b = x[0, 0, 0, i].item(), x[0, 0, 0, i + 3].item()
        assert turned[0, 0, 0, i].item() == pytest.approx(a * cos(angle) - b * sin(angle), abs=1e-5)
        assert turned[0, 0, 0, i + 3].item() == pytest.approx(b * cos(angle) + a * sin(angle), abs=1e-5)
    assert rotary.embed(torch.tensor([[7]]), 8) is None


def test_products_depend_on_distance_alone(rotary):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 6, generator=generator) for _ in range(2))

    def product(at_q: int, at_k: int) -> float:
        turn = lambda x, at: rotate(x, rotary.rotation(torch.tensor([[at]]), 100, torch.float32))  # noqa: E731
        return float((turn(q, at_q) * turn(k, at_k)).sum())

    assert product(9, 4) == pytest.approx(product(55, 50), abs=1e-4)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-2)
    assert product(3, 3) == pytest.approx(float((q * k).sum()), abs=1e-5)


def test_the_rotation_follows_the_dtype_that_is_asked_for(rotary):
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        cosines, sines = rotary.rotation(torch.tensor([[1, 2]]), 100, dtype)
        assert (cosines.dtype, sines.dtype, cosines.shape) == (dtype, dtype, (1, 2, 1, 6))


def test_a_table_that_was_made_in_inference_mode_serves_training(rotary):
    with torch.inference_mode():
        rotary.rotation(torch.tensor([[1]]), 100, torch.float32)
    x = torch.ones(1, 1, 1, 6, requires_grad=True)
    rotate(x, rotary.rotation(torch.tensor([[1]]), 100, torch.float32)).sum().backward()
    assert x.grad is not None
