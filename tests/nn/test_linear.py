"""The fast kernels compute what torch's linear layer does, for every shape, dtype and way to call them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gamut.nn.linear import Linear, linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 8), (3, 1, 8), (2, 3, 8), (32, 8), (33, 8), (0, 8), (2, 0, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@torch.no_grad()
def test_linear_equals_torchs(dtype, tolerance, shape, bias):
    generator = torch.Generator().manual_seed(0)
    x, weight, offset = (torch.randn(size, generator=generator).to(dtype) for size in (shape, (6, 8), (6,)))
    expected = F.linear(x.double(), weight.double(), offset.double() if bias else None)
    got = linear(x, weight, offset if bias else None)
    assert (got.shape, got.dtype) == (expected.shape, dtype)
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 32, 33])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 0.6)])
@torch.no_grad()
def test_large_matrices_equal_torchs(dtype, tolerance, rows, bias):
    generator = torch.Generator().manual_seed(0)
    x, weight, offset = (torch.randn(size, generator=generator).to(dtype) for size in ((rows, 1024), (1024, 1024), (1024,)))
    expected = F.linear(x.float(), weight.float(), offset.float() if bias else None)
    torch.testing.assert_close(linear(x, weight, offset if bias else None).float(), expected, atol=tolerance, rtol=1e-2)


@torch.no_grad()
def test_rows_that_do_not_lie_together():
    x = torch.randn(4, 8, 3).transpose(1, 2).to(torch.bfloat16)
    weight = torch.randn(8, 6).t().to(torch.bfloat16)
    assert not x.is_contiguous()
    torch.testing.assert_close(linear(x, weight, None), F.linear(x, weight), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_flow(dtype):
    layer = Linear(8, 6).to(dtype)
    layer(torch.ones(2, 8, dtype=dtype)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.full((6, 8), 2.0, dtype=dtype))
    assert torch.equal(layer.bias.grad, torch.full((6,), 2.0, dtype=dtype))
