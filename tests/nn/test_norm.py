"""RMSNorm is its formula, in every precision and with or without gradients."""

from __future__ import annotations

import pytest
import torch

from gamut.nn.config import NormConfig
from gamut.nn.norm import RMSNorm, build_norm


def formula(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_is_its_formula(spread, grad, dtype, tolerance, eps):
    norm = spread(RMSNorm(6, eps)).to(dtype)
    x = (3 * torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.set_grad_enabled(grad):
        out = norm(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), formula(x, norm.weight, eps), atol=tolerance, rtol=tolerance)


def test_a_vector_by_hand():
    # The mean square of (3, 4, 0, 0) is 25/4, its root 2.5.
    norm = RMSNorm(4, eps=0.0)
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0, 0.0, 0.0])), torch.tensor([1.2, 1.6, 0.0, 0.0]))


@torch.no_grad()
def test_bfloat16_is_rounded_once_at_the_end():
    x = torch.randn(50, 100, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    exact = formula(x, torch.ones(100), 1e-6).to(torch.bfloat16)
    rounded_otherwise = RMSNorm(100, 1e-6).to(torch.bfloat16)(x) != exact
    assert rounded_otherwise.float().mean() < 1e-3  # at a tie; a mean square in bfloat16 moves every tenth


def test_the_kinds():
    layer, rms = build_norm(NormConfig("layer", 1e-3), 4), build_norm(NormConfig("rms", 1e-4), 4)
    assert isinstance(layer, torch.nn.LayerNorm)
    assert layer.eps == 1e-3
    assert isinstance(rms, RMSNorm)
    assert rms.eps == 1e-4
