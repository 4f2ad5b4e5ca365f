"""A linear layer that is fast for the few rows of a decoding step on a CPU, and torch's own everywhere else.

R: rows (batch times tokens), I: inputs, O: outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEW_ROWS = 32
_ONEDNN = torch.backends.mkldnn.is_available()
_LARGE = 1 << 20  # weights; below, setting oneDNN up costs more than it saves


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b over the last dimension, without gradients by the kernel that reads W fastest.

    For few rows the time is that of reading W, which torch's default kernels do at a half of the memory's speed in
    bfloat16, and for 3 to 32 rows in float32. The same products by other kernels (W x^T; oneDNN on the plain matrix)
    come close to it, with no second copy of W. benchmarks/decoding.py shows the effect.
    """
    rows = x.numel() // max(1, x.shape[-1])
    if torch.is_grad_enabled() or not 0 < rows <= _FEW_ROWS or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.linear(x, weight_OI, bias_O)
    if weight_OI.dtype is torch.bfloat16 and x.dtype is torch.bfloat16:
        return _by_columns(x.reshape(rows, -1), weight_OI, bias_O).view(*x.shape[:-1], -1)
    if rows > 2 and weight_OI.dtype is torch.float32 and weight_OI.numel() >= _LARGE and _ONEDNN:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
        return out
    return F.linear(x, weight_OI, bias_O)


def _by_columns(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """W x^T, turned back; the result is laid out row by row, as attention's kernels want it."""
    if len(x_RI) == 1:
        out_O = torch.mv(weight_OI, x_RI[0]) if bias_O is None else torch.addmv(bias_O, weight_OI, x_RI[0])
        return out_O[None]
    x_IR = x_RI.t()
    out_OR = torch.mm(weight_OI, x_IR) if bias_O is None else torch.addmm(bias_O[:, None], weight_OI, x_IR)
    return out_OR.t().contiguous()


class Linear(nn.Linear):
    """`nn.Linear` that computes by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
