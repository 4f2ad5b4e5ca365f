"""A stack reads whole sequences or goes on from a cache: same positions, same views, and never past its context."""

from __future__ import annotations

import pytest
import torch

from gamut.errors import ContextOverflow
from gamut.nn import Cache


def cache_for(transformer, rows: int, capacity: int = 32) -> Cache:
    config = transformer.config.decoder
    return Cache(config, rows=rows, capacity=capacity, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
@torch.no_grad()
def test_later_tokens_change_nothing_earlier(tiny_model, model_type):
    transformer = tiny_model(model_type).transformer
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    changed = torch.tensor([[1, 2, 3, 9, 5]])
    one, other = transformer(ids), transformer(changed)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert (one[:, 3:] - other[:, 3:]).abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_an_encoder_looks_both_ways(tiny_model):
    transformer = tiny_model("bert").transformer
    one, other = transformer(torch.tensor([[1, 2, 3, 4, 5]])), transformer(torch.tensor([[1, 2, 3, 4, 9]]))
    assert (one - other).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bert"])
@torch.no_grad()
def test_padding_moves_nothing_whatever_it_holds(tiny_model, model_type):
    transformer = tiny_model(model_type).transformer
    row = [4, 5, 6]
    expected = transformer(torch.tensor([row]))[0]
    for fill in (0, 17):
        left, right = torch.tensor([[fill] * 2 + row]), torch.tensor([row + [fill] * 2])
        mask = torch.tensor([[0, 0, 1, 1, 1]])
        torch.testing.assert_close(transformer(left, mask)[0, 2:], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(transformer(right, mask.flip(1))[0, :3], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_shorter_row_never_reads_what_memory_held_before(tiny_model, monkeypatch):
    # A longer neighbour makes a row's step read places that it has not written.
    transformer = tiny_model("gpt2").transformer
    poisoned = lambda *size, **kw: torch.full(size, float("nan"), **kw)  # noqa: E731
    monkeypatch.setattr(torch, "empty", poisoned)
    cache = cache_for(transformer, rows=2)
    transformer.decode(torch.tensor([[1, 2, 3, 4], [5, 0, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]), cache=cache)
    out = transformer.logits(transformer.decode(torch.tensor([[6], [7]]), cache=cache))
    torch.testing.assert_close(out[1, 0], transformer(torch.tensor([[5, 7]]))[0, 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("model_type", "method"), [("gpt2", "decode"), ("bert", "encode"), ("marian", "encode")])
def test_more_tokens_than_the_context(tiny_model, model_type, method):
    transformer = tiny_model(model_type).transformer
    read = getattr(transformer, method)
    assert read(torch.zeros(1, 32, dtype=torch.long)).shape == (1, 32, 16)
    with pytest.raises(ContextOverflow, match="35 tokens do not fit the model's context of 32; shorten the text by 3 tokens"):
        read(torch.zeros(1, 35, dtype=torch.long))


@torch.no_grad()
def test_the_context_counts_what_the_cache_holds(tiny_model):
    transformer = tiny_model("llama").transformer
    cache = cache_for(transformer, rows=1)
    transformer.decode(torch.zeros(1, 30, dtype=torch.long), cache=cache)
    with pytest.raises(ContextOverflow, match="34 tokens do not fit the model's context of 32"):
        transformer.decode(torch.zeros(1, 4, dtype=torch.long), cache=cache)
    assert cache.lengths == [30]


def test_embeddings_are_dropped_in_training_alone(tiny_model):
    transformer = tiny_model("gpt2", embd_pdrop=0.5, resid_pdrop=0.0, attn_pdrop=0.0).transformer
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(transformer(ids), transformer(ids))
    torch.manual_seed(0)
    transformer.train()
    assert not torch.equal(transformer(ids), transformer(ids))
