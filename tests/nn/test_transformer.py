"""The Transformer's own promises: composition, records, fresh weights, tying, fusion. Parity is tested apart.

L: layers, H: heads.
"""

from __future__ import annotations

import pytest
import torch

from gamut.checkpoint import architecture, build
from gamut.errors import UsageError
from gamut.nn import AttentionRecord, Transformer

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
ALL = ("gpt2", "llama", "bert", "marian")


def run(transformer: Transformer, **more) -> torch.Tensor:
    return transformer(IDS, decoder_ids_BT=IDS[:, :3] if transformer.encoder and transformer.decoder else None, **more)


@pytest.mark.parametrize(("model_type", "stacks"), [("gpt2", "d"), ("llama", "d"), ("bert", "e"), ("marian", "ed")])
def test_the_config_decides_which_stacks_there_are(tiny_model, model_type, stacks):
    transformer = tiny_model(model_type).transformer
    assert ("e" in stacks, "d" in stacks) == (transformer.encoder is not None, transformer.decoder is not None)
    assert run(transformer).shape == (2, 3 if stacks == "ed" else 4, 40)


@pytest.mark.parametrize("model_type", ALL)
@torch.no_grad()
def test_fusing_a_transformer_changes_no_logit_and_no_weight(tiny_model, model_type):
    transformer = tiny_model(model_type).transformer
    expected, before = run(transformer), {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    transformer.fuse()
    torch.testing.assert_close(run(transformer), expected, atol=1e-5, rtol=1e-5)
    assert {name: tensor.shape for name, tensor in transformer.state_dict().items()} == {n: t.shape for n, t in before.items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in transformer.state_dict().items())


@pytest.mark.parametrize("model_type", ALL)
def test_a_fused_transformer_trains_as_one_that_is_not(tiny_model, model_type):
    plain, fused = tiny_model(model_type).transformer, tiny_model(model_type).transformer
    fused.fuse()
    for transformer in (plain, fused):
        run(transformer).square().mean().backward()
        torch.optim.SGD(transformer.parameters(), lr=0.1).step()
    with torch.no_grad():
        torch.testing.assert_close(run(fused), run(plain), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", ALL)
def test_a_tied_head_has_no_matrix_that_could_come_undone(tiny_model, model_type):
    transformer = tiny_model(model_type, tie_word_embeddings=True).transformer
    assert not [name for name in transformer.state_dict() if name == "head.weight"]
    untied = tiny_model(model_type, tie_word_embeddings=False).transformer
    assert untied.head.weight is not None
    run(transformer).sum().backward()
    stack = transformer.decoder or transformer.encoder
    assert stack.embeddings.tokens.weight.grad.abs().sum() > 0


def test_a_shared_table_is_one_through_copies_and_conversions(tiny_model):
    import copy

    transformer = copy.deepcopy(tiny_model("marian").transformer).to(torch.bfloat16)
    assert transformer.encoder.embeddings.tokens.weight is transformer.decoder.embeddings.tokens.weight


@pytest.mark.parametrize("model_type", ALL)
def test_fresh_weights(tiny_config, model_type):
    name = "init_std" if model_type == "marian" else "initializer_range"
    transformer = build(architecture(tiny_config(model_type, vocab_size=200, **{name: 0.05})), seed=1)
    for key, parameter in transformer.named_parameters():
        if key.endswith("bias"):
            assert not parameter.any(), key
        elif parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), key
        elif parameter.numel() > 200:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.2), key
    logits = run(transformer)
    assert logits.isfinite().all()


# --- records --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("gpt2", {"decoder": (2, 2, 4, 4)}),
        ("llama", {"decoder": (2, 4, 4, 4)}),
        ("bert", {"encoder": (2, 2, 4, 4)}),
        ("marian", {"encoder": (2, 2, 4, 4), "decoder": (1, 4, 3, 3), "cross": (1, 4, 3, 4)}),
    ],
)
def test_shapes_of_attention(tiny_model, model_type, expected):
    lm = tiny_model(model_type)
    found = lm.attention([1, 2, 3, 4], [5, 6, 7] if model_type == "marian" else None)
    assert {name: tuple(weights_LHTS.shape) for name, weights_LHTS in found.items()} == expected
    for name, weights_LHTS in found.items():
        torch.testing.assert_close(weights_LHTS.sum(-1), torch.ones(expected[name][:3]))


def test_without_a_target_there_are_the_encoders_weights_alone(tiny_model):
    lm = tiny_model("marian")
    alone, both = lm.attention([1, 2, 3, 4]), lm.attention([1, 2, 3, 4], [5])
    assert list(alone) == ["encoder"]
    assert torch.equal(alone["encoder"], both["encoder"])


@torch.no_grad()
def test_a_record_of_a_step_looks_back_at_the_cache(tiny_model):
    from gamut.nn import Cache

    transformer = tiny_model("llama").transformer
    whole, step = AttentionRecord(), AttentionRecord()
    transformer(IDS, record=whole)
    cache = Cache(transformer.config.decoder, rows=2, capacity=4, dtype=torch.float32, device=torch.device("cpu"))
    transformer.decode(IDS[:, :3], cache=cache)
    transformer.decode(IDS[:, 3:], cache=cache, record=step)
    for full_BHTS, last_BHTS in zip(whole.decoder, step.decoder, strict=True):
        torch.testing.assert_close(last_BHTS, full_BHTS[:, :, 3:], atol=1e-5, rtol=1e-5)


# --- what the model says of calls that do not fit it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("marian", {}, "an encoder-decoder needs decoder_ids"),
        ("gpt2", {"decoder_ids": IDS}, "decoder_ids are for encoder-decoder models"),
        ("gpt2", {"token_type_ids": IDS}, "this model has no token types"),
        ("marian", {"decoder_ids": IDS + 40}, r"token ids must be from 0 to 39, got \[41, 42, 43"),
    ],
)
def test_calls_of_logits_that_do_not_fit(tiny_model, model_type, options, message):
    with pytest.raises(UsageError, match=message):
        tiny_model(model_type).logits(IDS, **options)


@pytest.mark.parametrize("wrong", [-1, 40])
@pytest.mark.parametrize("model_type", ALL)
def test_ids_outside_the_vocabulary(tiny_model, model_type, wrong):
    lm, ids = tiny_model(model_type), torch.tensor([[1, wrong, 2]])
    with pytest.raises(
        UsageError, match=rf"token ids must be from 0 to 39, got \[{wrong}\]; is this tokenizer the model's own"
    ):
        lm.logits(ids, decoder_ids=IDS[:1] if model_type == "marian" else None)
    with pytest.raises(UsageError, match="token ids must be from 0 to 39"):
        lm.attention(ids)
