"""GPT-2 (Radford 2019): decoder-only, norm first, learned positions; its matrices are stored transposed, q, k and v as one."""

from __future__ import annotations

from ...nn import AttentionConfig, FeedForwardConfig, HeadConfig, LearnedConfig, NormConfig, StackConfig, TransformerConfig
from ...nn.feedforward import ACTIVATIONS
from ..config import ConfigReader
from ..names import Rule
from .base import Family


def read(config: ConfigReader) -> TransformerConfig:
    width, heads = config.integer("n_embd", 768), config.integer("n_head", 12)
    if width % heads:
        raise config.error("n_head", f"must divide n_embd = {width}")
    config.only(scale_attn_by_inverse_layer_idx=False, reorder_and_upcast_attn=False)
    config.inert("n_ctx", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels")
    config.inert("summary_first_dropout")
    attention = AttentionConfig(
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        dropout=config.probability("attn_pdrop", 0.1),
        scale=None if config.flag("scale_attn_weights", True) else 1.0,
    )
    decoder = StackConfig(
        layers=config.layers("n_layer", 12),
        vocab_size=config.integer("vocab_size", 50257),
        context=config.integer("n_positions", 1024),
        attention=attention,
        feed_forward=FeedForwardConfig(
            width=config.integer("n_inner", 4 * width),
            activation=config.choice("activation_function", "gelu_new", ACTIVATIONS),
        ),
        norm=NormConfig("layer", config.number("layer_norm_epsilon", 1e-5)),
        positions=LearnedConfig(),
        norm_first=True,
        causal=True,
        final_norm=True,
        dropout=config.probability("resid_pdrop", 0.1),
        embedding_dropout=config.probability("embd_pdrop", 0.1),
    )
    return TransformerConfig(
        width=width,
        encoder=None,
        decoder=decoder,
        head=HeadConfig(tied=config.flag("tie_word_embeddings", True)),
        init_std=config.number("initializer_range", 0.02),
    )


def rules(_: TransformerConfig) -> list[Rule]:
    block, layer = "decoder.blocks.{}", "transformer.h.{}"
    qkv = tuple(f"{block}.attention.{part}" for part in "qkv")
    return [
        Rule("transformer.wte", "decoder.embeddings.tokens"),
        Rule("transformer.wpe", "decoder.embeddings.positions"),
        Rule(f"{layer}.ln_1", f"{block}.attention_residual.norm"),
        Rule(f"{layer}.attn.c_attn", qkv, transposed=True),
        Rule(f"{layer}.attn.c_proj", f"{block}.attention.out", transposed=True),
        Rule(f"{layer}.ln_2", f"{block}.feed_forward_residual.norm"),
        Rule(f"{layer}.mlp.c_fc", f"{block}.feed_forward.up", transposed=True),
        Rule(f"{layer}.mlp.c_proj", f"{block}.feed_forward.down", transposed=True),
        Rule("transformer.ln_f", "decoder.norm"),
        Rule("lm_head", "head"),
    ]


FAMILY = Family(
    model_type="gpt2",
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    read=read,
    rules=rules,
    prefix="transformer.",
    ignored=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
    copies=r"lm_head\.weight",
)
