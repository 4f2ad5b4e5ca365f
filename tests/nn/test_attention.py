"""Attention is its formula, however it is computed; the fused projection never outlives what it was made of.

B: batch, T: queries, S: keys, H: heads, K: key-value heads, D: head size, W: width.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gamut.nn.attention import Attention, View
from gamut.nn.config import AttentionConfig
from gamut.nn.positions import RotaryPositions

WIDTH = 10
CONFIGS = {
    "many": AttentionConfig(heads=4, kv_heads=4, head_dim=6),
    "grouped": AttentionConfig(heads=6, kv_heads=2, head_dim=4, qkv_bias=False, out_bias=False),
    "one": AttentionConfig(heads=3, kv_heads=1, head_dim=2, scale=0.7),
}


@pytest.fixture(params=CONFIGS)
def attention(request, spread) -> Attention:
    return spread(Attention(WIDTH, CONFIGS[request.param]))


def inputs(rows: int = 2, tokens: int = 5) -> Tensor:
    return torch.randn(rows, tokens, WIDTH, generator=torch.Generator().manual_seed(1))


def formula(attention: Attention, x_BTW: Tensor, memory_BSW: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T scale) V per head, key-value head h // G for head h, in loops (Vaswani 2017, section 3.2)."""
    D, group = attention.head_dim, attention.heads // attention.kv_heads
    q, k, v = attention.q(x_BTW), attention.k(memory_BSW), attention.v(memory_BSW)
    heads = []
    for h in range(attention.heads):
        kv = slice(h // group * D, (h // group + 1) * D)
        scores = q[..., h * D : (h + 1) * D] @ k[..., kv].mT * attention.scale
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        heads.append(scores.softmax(-1) @ v[..., kv])
    return attention.out(torch.cat(heads, -1))


def test_it_is_the_formula(attention):
    x = inputs()
    torch.testing.assert_close(attention(x, View()), formula(attention, x, x, None), atol=1e-5, rtol=1e-5)


def test_causal(attention):
    x = inputs()
    mask = torch.ones(5, 5).tril().bool()
    torch.testing.assert_close(attention(x, View(causal=True)), formula(attention, x, x, mask), atol=1e-5, rtol=1e-5)


def test_masked(attention):
    x = inputs()
    mask_BTS = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    mask_BTS |= torch.eye(5).bool()
    out = attention(x, View(mask=mask_BTS[:, None]))
    torch.testing.assert_close(out, formula(attention, x, x, mask_BTS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 3])
def test_across_to_an_encoders_output(attention, tokens):
    x, memory = inputs(tokens=tokens), inputs(tokens=7) + 1
    seen_BS = torch.tensor([[1, 1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0]]).bool()
    out = attention.cross(x, attention.keys_values(memory), View(mask=seen_BS[:, None, None]))
    torch.testing.assert_close(out, formula(attention, x, memory, seen_BS[:, None]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_recorded_weights_are_what_the_output_is_made_of(attention, causal):
    x, weights = inputs(), []
    out = attention(x, View(causal=causal, weights=weights))
    torch.testing.assert_close(out, attention(x, View(causal=causal)), atol=1e-5, rtol=1e-5)
    (weights_BHTS,) = weights
    assert weights_BHTS.shape == (2, attention.heads, 5, 5)
    torch.testing.assert_close(weights_BHTS.sum(-1), torch.ones(2, attention.heads, 5))
    assert (weights_BHTS.triu(1) == 0).all() == causal


def test_dropout_acts_in_training_alone(spread):
    attention = spread(Attention(WIDTH, AttentionConfig(heads=2, kv_heads=1, head_dim=4, dropout=0.5)))
    for tokens in (1, 5):
        x = inputs(tokens=tokens)
        assert torch.equal(attention.eval()(x, View()), attention(x, View()))
        torch.manual_seed(0)
        attention.train()
        assert not torch.equal(attention(x, View()), attention(x, View()))


# --- the fused projection -------------------------------------------------------------------------------------------------


def unfused(attention: Attention) -> Attention:
    """The same weights in parts that were never fused."""
    config = AttentionConfig(
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        qkv_bias=attention.q.bias is not None,
        out_bias=attention.out.bias is not None,
        scale=attention.scale,
    )
    fresh = Attention(WIDTH, config)
    fresh.load_state_dict(attention.state_dict())
    return fresh.to(attention.q.weight.dtype).eval()


def assert_computes_with_its_parameters(attention: Attention) -> None:
    x = inputs().to(attention.q.weight.dtype)
    with torch.no_grad():
        torch.testing.assert_close(attention(x, View()), unfused(attention)(x, View()), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def perturb(attention: Attention) -> None:
    for parameter in attention.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def test_fusing_changes_no_output_no_name_and_no_value(attention):
    x, before = inputs(), {name: tensor.clone() for name, tensor in attention.state_dict().items()}
    rotation = RotaryPositions(attention.head_dim, 100.0).rotation(torch.arange(5)[None], 5, torch.float32)
    with torch.no_grad():
        views = [View(), View(causal=True), View(rotation=rotation)]
        expected = [attention(x, view) for view in views]
        attention.fuse()
        for view, wanted in zip(views, expected, strict=True):
            torch.testing.assert_close(attention(x, view), wanted, atol=1e-5, rtol=1e-5)
    after = attention.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_gradients_flow_to_the_parts_and_training_is_seen(attention):
    attention.fuse()
    attention(inputs(), View()).square().sum().backward()
    for part in (attention.q, attention.k, attention.v):
        assert part.weight.grad is not None
        assert part.weight.grad.abs().sum() > 0
    torch.optim.SGD(attention.parameters(), lr=0.1).step()
    assert_computes_with_its_parameters(attention)


def test_weights_that_are_loaded_later_are_seen(attention):
    attention.fuse()
    state = {name: torch.randn(tensor.shape) for name, tensor in attention.state_dict().items()}
    for assign in (False, True):
        attention.load_state_dict({name: tensor + assign for name, tensor in state.items()}, assign=assign)
        assert_computes_with_its_parameters(attention)


def test_a_copy_has_a_life_of_its_own(attention):
    attention.fuse()
    twin = copy.deepcopy(attention)
    perturb(twin)
    assert_computes_with_its_parameters(twin)
    assert_computes_with_its_parameters(attention)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_a_parameter_that_is_replaced_is_seen(attention, part):
    attention.fuse()
    module = getattr(attention, part)
    module.weight = nn.Parameter(module.weight.detach() + 1)
    assert_computes_with_its_parameters(attention)
    attention.fuse()
    module.weight.data = module.weight.detach() + 1
    assert_computes_with_its_parameters(attention)


def test_conversion_drops_the_fusion(attention):
    attention.fuse()
    x = inputs()
    with torch.no_grad():
        expected = attention(x, View())
        attention.double()
        out = attention(x.double(), View())
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), expected, atol=1e-5, rtol=1e-5)


class Shifted(nn.Linear):
    """An adapter in the way of LoRA: the base's own matrix, and something added."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def test_a_part_that_is_replaced_drops_the_fusion_and_fusing_again_does_not_pass_it_by(attention):
    x = inputs()
    attention.fuse()
    with torch.no_grad():
        before = attention(x, View())
        attention.q = Shifted(attention.q)
        adapted = attention(x, View())
        assert (adapted - before).abs().max() > 1e-3
        attention.fuse()
        assert torch.equal(attention(x, View()), adapted)


def test_what_is_fused_in_inference_mode_can_be_trained(attention):
    with torch.inference_mode():
        attention.fuse()
    attention(inputs(), View()).sum().backward()
    assert attention.q.weight.grad is not None


def test_fusing_twice_copies_nothing(attention):
    attention.fuse()
    address = attention.k.weight.data_ptr()
    attention.fuse()
    assert attention.k.weight.data_ptr() == address
