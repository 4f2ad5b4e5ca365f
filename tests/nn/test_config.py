"""Configs are plain data that refuses what cannot be built."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gamut.checkpoint import architecture
from gamut.nn import AttentionConfig, HeadConfig, TransformerConfig


def test_heads_that_cannot_share_keys_evenly():
    with pytest.raises(ValueError, match="6 heads cannot share 4 key-value heads evenly"):
        AttentionConfig(heads=6, kv_heads=4, head_dim=2)


def test_a_transformer_without_stacks():
    with pytest.raises(ValueError, match="needs an encoder, a decoder or both"):
        TransformerConfig(width=4, encoder=None, decoder=None, head=HeadConfig())


@pytest.mark.parametrize(("model_type", "stack"), [("gpt2", "decoder"), ("bert", "encoder")])
def test_a_single_stack_takes_the_text_and_gives_the_logits(tiny_config, model_type, stack):
    config = architecture(tiny_config(model_type, vocab_size=31)).config
    assert config.output_stack is getattr(config, stack)
    assert (config.vocab_size, config.context) == (31, 32)


def test_with_both_stacks_the_encoder_takes_the_text_and_the_decoder_gives_the_logits(tiny_config):
    fields = tiny_config("marian", share_encoder_decoder_embeddings=False, decoder_vocab_size=50)
    config = architecture(fields).config
    assert config.encoder is not None
    config = replace(config, encoder=replace(config.encoder, context=8))
    assert config.output_stack is config.decoder
    assert (config.vocab_size, config.context) == (50, 8)
