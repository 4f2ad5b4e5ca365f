"""A linear layer that is fast for the few rows of a decoding step on a CPU, and torch's own everywhere else.

R: rows (batch times tokens), I: inputs, O: outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEW_ROWS = 32
_LARGE = 1 << 20  # weights; below, setting oneDNN up costs more than it saves


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b over the last dimension, without gradients by the kernel that reads W fastest.

    For few rows the time is that of reading W, which torch's default kernels do at a half of the memory's speed in
    bfloat16, and for 3 to 32 rows in float32. The same products by other kernels (W x^T; oneDNN on the plain matrix)
    come close to it, with no second copy of W. benchmarks/decoding.py shows the effect.
    """
    rows = x.numel() // x.shape[-1] if x.numel() else 0
    if rows > _FEW_ROWS or rows == 0 or torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.linear(x, weight_OI, bias_O)
    if weight_OI.dtype is torch.bfloat16 and x.dtype is torch.bfloat16:
        x_RI = x.reshape(rows, -1)
        if rows == 1:
            out_O = torch.mv(weight_OI, x_RI[0]) if bias_O is None else torch.addmv(bias_O, weight_OI, x_RI[0])
            row: Tensor = out_O.view(*x.shape[:-1], -1)
            return row
        x_IR = x_RI.t()
        out_OR = torch.mm(weight_OI, x_IR) if bias_O is None else torch.addmm(bias_O[:, None], weight_OI, x_IR)
        rows_RO: Tensor = out_OR.t().unflatten(0, x.shape[:-1])
        return rows_RO
    if weight_OI.dtype is torch.float32 and rows > 2 and weight_OI.numel() >= _LARGE and torch.backends.mkldnn.is_available():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
        return out
    return F.linear(x, weight_OI, bias_O)


class Linear(nn.Linear):
    """`nn.Linear` that computes by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
