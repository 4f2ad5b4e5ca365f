"""Multi-head attention: softmax(QK^T / sqrt(D)) V (Vaswani 2017, equation 1), with grouped heads and a cache.

B: batch, T: queries, S: keys, H: heads, K: key-value heads, G: heads per key-value head, D: head size, W: width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cache import LayerCache
from .config import AttentionConfig
from .linear import Linear, linear
from .positions import Rotation, rotate


@dataclass(slots=True)
class View:
    """What the queries of one pass may see, the same in every layer."""

    mask: Tensor | None = None
    """True where query T may see key S, [B or 1, 1, T, S]; ``None`` with `causal` unset: everything."""
    causal: bool = False
    """Query t sees keys 0..t; only where `mask` is ``None`` and there are as many keys as queries."""
    rotation: Rotation | None = None
    places: slice | Tensor = field(default_factory=lambda: slice(0))
    """Where the cache takes the new keys, and how many are in use then."""
    used: int = 0
    weights: list[Tensor] | None = None
    """Where every layer's attention weights [B, H, T, S] are put, if they are wanted."""


class Attention(nn.Module):
    """One layer of attention, of a sequence to itself or to an encoder's output."""

    def __init__(self, width: int, config: AttentionConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.scale = config.head_dim**-0.5 if config.scale is None else config.scale
        self.dropout = config.dropout
        self.q = Linear(width, config.heads * config.head_dim, bias=config.qkv_bias)
        self.k = Linear(width, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.v = Linear(width, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.out = Linear(config.heads * config.head_dim, width, bias=config.out_bias)
        self._fused: _Fusion | None = None

    def forward(self, x_BTW: Tensor, view: View, cache: LayerCache | None = None) -> Tensor:
        """Attend from each token of `x_BTW` to the tokens of the same sequence that `view` shows."""
        q_BTHD, k_BTKD, v_BTKD = self._project(x_BTW, view.rotation)
        k_BKSD, v_BKSD = k_BTKD.transpose(1, 2), v_BTKD.transpose(1, 2)
        if cache is not None:
            k_BKSD, v_BKSD = cache.append(k_BKSD, v_BKSD, view.places, view.used)
        return self._attend(q_BTHD, k_BKSD, v_BKSD, view)

    def cross(self, x_BTW: Tensor, kv_BKSD: tuple[Tensor, Tensor], view: View) -> Tensor:
        """Attend from each token of `x_BTW` to an encoder's output, given as what `keys_values` made of it."""
        q_BTHD = self.q(x_BTW).unflatten(-1, (self.heads, self.head_dim))
        return self._attend(q_BTHD, *kv_BKSD, view)

    def keys_values(self, memory_BSW: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an encoder's output, [B, K, S, D] each."""
        k, v = (p(memory_BSW).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2) for p in (self.k, self.v))
        return k, v

    def _project(self, x_BTW: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `x_BTW`, turned by `rotation`: [B, T, H, D], [B, T, K, D], [B, T, K, D]."""
        fused = self._fused
        if fused is not None and not torch.is_grad_enabled() and fused.holds():
            qkv_BTND = linear(x_BTW, fused.weight, fused.bias).unflatten(-1, (-1, self.head_dim))
            if rotation is not None:
                qk, v = qkv_BTND.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
                q, k = rotate(qk, rotation).split((self.heads, self.kv_heads), dim=2)
                return q, k, v
            q, k, v = qkv_BTND.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
            return q, k, v
        q = self.q(x_BTW).unflatten(-1, (self.heads, self.head_dim))
        k = self.k(x_BTW).unflatten(-1, (self.kv_heads, self.head_dim))
        v = self.v(x_BTW).unflatten(-1, (self.kv_heads, self.head_dim))
        return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)

    def _attend(self, q_BTHD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, view: View) -> Tensor:
        q_BHTD = q_BTHD.transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        if view.weights is not None:
            out_BHTD = self._explicit(q_BHTD, k_BKSD, v_BKSD, view)
        elif q_BHTD.shape[2] == 1 and self.kv_heads < self.heads and not dropout:
            # One query a row: the heads that share keys become the queries of one head, and nothing is repeated.
            q_BKGD = q_BTHD.unflatten(2, (self.kv_heads, -1)).squeeze(1)
            out_BKGD = F.scaled_dot_product_attention(q_BKGD, k_BKSD, v_BKSD, view.mask, scale=self.scale)
            out_BHTD = out_BKGD.flatten(1, 2).unsqueeze(2)
        else:
            out_BHTD = F.scaled_dot_product_attention(
                q_BHTD,
                k_BKSD,
                v_BKSD,
                view.mask,
                dropout_p=dropout,
                is_causal=view.causal,
                scale=self.scale,
                enable_gqa=self.kv_heads < self.heads,
            )
        out_BTW: Tensor = self.out(out_BHTD.transpose(1, 2).flatten(2))
        return out_BTW

    def _explicit(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, view: View) -> Tensor:
        """The formula spelt out, so that the weights can be looked at."""
        groups = self.heads // self.kv_heads
        k_BHSD, v_BHSD = k_BKSD.repeat_interleave(groups, 1), v_BKSD.repeat_interleave(groups, 1)
        scores_BHTS = q_BHTD @ k_BHSD.transpose(-1, -2) * self.scale
        mask = view.mask
        if view.causal:
            mask = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool, device=scores_BHTS.device).tril()
        if mask is not None:
            scores_BHTS = scores_BHTS.masked_fill(~mask, float("-inf"))
        weights_BHTS = scores_BHTS.softmax(-1)
        assert view.weights is not None
        view.weights.append(weights_BHTS)
        return weights_BHTS @ v_BHSD

    # Fused projection: one matrix whose rows q, k and v view, so that parameters, names and optimizers stay as they are.

    def fuse(self) -> None:
        """Project queries, keys and values by one matrix from now on, wherever no gradient is wanted.

        Parts that were replaced, by adapters say, compute something else than their matrix, and are left as they are.
        """
        parts = (self.q, self.k, self.v)
        if all(type(part) is Linear for part in parts) and not (self._fused and self._fused.holds()):
            self._fused = _Fusion.of(*parts)

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        self._fused = None  # moved or converted parameters no longer view the fused matrix
        module: nn.Module = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return module

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            self.__dict__["_fused"] = None  # a part was replaced, by an adapter say: use the parts again
        super().__setattr__(name, value)


@dataclass(frozen=True, slots=True)
class _Fusion:
    """One matrix, and the rows of it that the parameters of q, k and v view."""

    weight: Tensor
    bias: Tensor | None
    views: tuple[tuple[dict[str, nn.Parameter | None], str, Tensor], ...]
    """For each parameter: those of its module, its name among them, and the rows that it views."""

    @classmethod
    def of(cls, *parts: nn.Linear) -> _Fusion:
        """Join the parts' parameters, which become views of the joined ones."""
        joined: dict[str, Tensor] = {}
        views = []
        # Made in inference mode, parameters could never be trained again.
        with torch.inference_mode(False):
            for name in ("weight",) if parts[0].bias is None else ("weight", "bias"):
                tensors = [getattr(part, name).detach() for part in parts]
                joined[name] = torch.cat(tensors)
                for part, view in zip(parts, joined[name].split([len(each) for each in tensors]), strict=True):
                    getattr(part, name).data = view
                    views.append((part._parameters, name, view))
        return cls(joined["weight"], joined.get("bias"), tuple(views))

    def holds(self) -> bool:
        """Whether the parts still view it: parameters that were copied, replaced or given other data do not."""
        for parameters, name, view in self.views:
            own = parameters.get(name)
            if own is None or own.data_ptr() != view.data_ptr():
                return False
        return True
