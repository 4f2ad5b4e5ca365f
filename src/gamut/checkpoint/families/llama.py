"""LLaMA (Touvron 2023): decoder-only, RMSNorm first, rotary positions, gated SiLU, grouped heads."""

from __future__ import annotations

from ...nn import AttentionConfig, FeedForwardConfig, HeadConfig, NormConfig, RotaryConfig, StackConfig, TransformerConfig
from ...nn.feedforward import ACTIVATIONS
from ..config import ConfigReader, is_number
from ..names import Rule
from .base import Family


def read(config: ConfigReader) -> TransformerConfig:
    width, heads = config.integer("hidden_size", 4096), config.integer("num_attention_heads", 32)
    if width % heads and config.absent("head_dim"):
        raise config.error("num_attention_heads", f"must divide hidden_size = {width} where head_dim is not given")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"must divide num_attention_heads = {heads}")
    bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    config.inert("pretraining_tp")
    attention = AttentionConfig(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=config.integer("head_dim", width // heads),
        qkv_bias=bias,
        out_bias=bias,
        dropout=config.probability("attention_dropout", 0.0),
    )
    if attention.head_dim % 2:
        raise config.error("head_dim", f"must be even for rotary positions, and is {attention.head_dim}")
    decoder = StackConfig(
        layers=config.layers("num_hidden_layers", 32),
        vocab_size=config.integer("vocab_size", 32000),
        context=config.integer("max_position_embeddings", 2048),
        attention=attention,
        feed_forward=FeedForwardConfig(
            width=config.integer("intermediate_size", 11008),
            activation=config.choice("hidden_act", "silu", ACTIVATIONS),
            gated=True,
            bias=mlp_bias,
        ),
        norm=NormConfig("rms", config.number("rms_norm_eps", 1e-6)),
        positions=rotary(config),
        norm_first=True,
        causal=True,
        final_norm=True,
    )
    return TransformerConfig(
        width=width,
        encoder=None,
        decoder=decoder,
        head=HeadConfig(tied=config.flag("tie_word_embeddings", False)),
        init_std=config.number("initializer_range", 0.02),
    )


def rotary(config: ConfigReader) -> RotaryConfig:
    """Rotary positions, as newer configs (rope_parameters) and older ones (rope_theta, rope_scaling) write them."""
    base, where = config.number("rope_theta", 10000.0), "rope_theta"
    for name in ("rope_parameters", "rope_scaling"):
        fields = dict(config.mapping(name))
        if "rope_theta" in fields:
            base, where = fields.pop("rope_theta"), name
        kinds = [fields.pop(key, "default") for key in ("rope_type", "type")]
        if kinds != ["default", "default"] or fields:
            raise config.error(name, "is not implemented; only rope_type default with a rope_theta is")
    if not is_number(base) or base <= 0:
        raise config.error(where, "must give a rope_theta that is a number above 0")
    return RotaryConfig(float(base))


def rules(_: TransformerConfig) -> list[Rule]:
    block, layer = "decoder.blocks.{}", "model.layers.{}"
    return [
        Rule("model.embed_tokens", "decoder.embeddings.tokens"),
        Rule(f"{layer}.input_layernorm", f"{block}.attention_residual.norm"),
        Rule(f"{layer}.self_attn.q_proj", f"{block}.attention.q"),
        Rule(f"{layer}.self_attn.k_proj", f"{block}.attention.k"),
        Rule(f"{layer}.self_attn.v_proj", f"{block}.attention.v"),
        Rule(f"{layer}.self_attn.o_proj", f"{block}.attention.out"),
        Rule(f"{layer}.post_attention_layernorm", f"{block}.feed_forward_residual.norm"),
        Rule(f"{layer}.mlp.gate_proj", f"{block}.feed_forward.gate"),
        Rule(f"{layer}.mlp.up_proj", f"{block}.feed_forward.up"),
        Rule(f"{layer}.mlp.down_proj", f"{block}.feed_forward.down"),
        Rule("model.norm", "decoder.norm"),
        Rule("lm_head", "head"),
    ]


FAMILY = Family(
    model_type="llama",
    architectures=("LlamaForCausalLM",),
    read=read,
    rules=rules,
    prefix="model.",
    ignored=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    copies=r"lm_head\.weight",
)
