"""Marian (Junczys-Dowmunt 2018): the encoder-decoder of "Attention Is All You Need", norm after, sinusoidal positions."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from ...nn import AttentionConfig, FeedForwardConfig, HeadConfig, NormConfig, SinusoidalConfig, StackConfig, TransformerConfig
from ...nn.feedforward import ACTIVATIONS
from ..config import ConfigReader
from ..names import Rule
from .base import Family


def read(config: ConfigReader) -> TransformerConfig:
    width = config.integer("d_model", 1024)
    config.only(encoder_layerdrop=0.0, decoder_layerdrop=0.0, is_encoder_decoder=True, static_position_embeddings=True)
    config.only(normalize_before=False, normalize_embedding=False, add_final_layer_norm=False)
    config.inert("classif_dropout", "classifier_dropout", "num_hidden_layers", "add_bias_logits", "extra_pos_embeddings")
    encoder = _stack(config, "encoder", width)
    decoder = replace(
        _stack(config, "decoder", width),
        vocab_size=config.integer("decoder_vocab_size", encoder.vocab_size),
        causal=True,
        cross_attention=True,
    )
    shared = config.flag("share_encoder_decoder_embeddings", True)
    if shared and decoder.vocab_size != encoder.vocab_size:
        raise config.error("decoder_vocab_size", f"must equal vocab_size = {encoder.vocab_size} where embeddings are shared")
    tied = config.flag("tie_word_embeddings", True)
    return TransformerConfig(
        width=width,
        encoder=encoder,
        decoder=decoder,
        head=HeadConfig(tied=tied, bias=True),
        shared_embeddings=shared and tied,  # untied, transformers 5 keeps all three tables apart
        init_std=config.number("init_std", 0.02),
    )


def _stack(config: ConfigReader, name: str, width: int) -> StackConfig:
    heads = config.integer(f"{name}_attention_heads", 16)
    if width % heads:
        raise config.error(f"{name}_attention_heads", f"must divide d_model = {width}")
    dropout = config.probability("dropout", 0.1)
    return StackConfig(
        layers=config.layers(f"{name}_layers", 12),
        vocab_size=config.integer("vocab_size", 58101),
        context=config.integer("max_position_embeddings", 1024),
        attention=AttentionConfig(
            heads=heads, kv_heads=heads, head_dim=width // heads, dropout=config.probability("attention_dropout", 0.0)
        ),
        feed_forward=FeedForwardConfig(
            width=config.integer(f"{name}_ffn_dim", 4096),
            activation=config.choice("activation_function", "gelu", ACTIVATIONS),
            dropout=config.probability("activation_dropout", 0.0),
        ),
        norm=NormConfig("layer", 1e-5),
        positions=SinusoidalConfig(),
        norm_first=False,
        embedding_scale=sqrt(width) if config.flag("scale_embedding", False) else 1.0,
        dropout=dropout,
        embedding_dropout=dropout,
    )


def rules(config: TransformerConfig) -> list[Rule]:
    # Where the table is shared, the encoder's is the one that holds it.
    tokens = "model.shared" if config.shared_embeddings else "model.encoder.embed_tokens"
    found = [
        Rule(tokens, "encoder.embeddings.tokens"),
        Rule("model.decoder.embed_tokens", "decoder.embeddings.tokens"),
        Rule("final_logits_bias", "head.bias", row=True),
        Rule("lm_head", "head"),
    ]
    for stack in ("encoder", "decoder"):
        block, layer = f"{stack}.blocks.{{}}", f"model.{stack}.layers.{{}}"
        for ours, theirs in (("attention", "self_attn"), ("cross", "encoder_attn")):
            found += [Rule(f"{layer}.{theirs}.{part}_proj", f"{block}.{ours}.{part}") for part in ("q", "k", "v", "out")]
            found.append(Rule(f"{layer}.{theirs}_layer_norm", f"{block}.{ours}_residual.norm"))
        found += [
            Rule(f"{layer}.fc1", f"{block}.feed_forward.up"),
            Rule(f"{layer}.fc2", f"{block}.feed_forward.down"),
            Rule(f"{layer}.final_layer_norm", f"{block}.feed_forward_residual.norm"),
        ]
    return found


FAMILY = Family(
    model_type="marian",
    architectures=("MarianMTModel",),
    read=read,
    rules=rules,
    ignored=r"model\.(encoder|decoder)\.embed_positions\.weight|model\.shared\.weight",
    copies=r"model\.(encoder|decoder)\.embed_tokens\.weight|lm_head\.weight",
)
