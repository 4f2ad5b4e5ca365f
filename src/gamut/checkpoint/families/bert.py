"""BERT (Devlin 2019): encoder-only, norm after, learned positions, sentence types, a masked-LM head with a transform."""

from __future__ import annotations

from ...nn import AttentionConfig, FeedForwardConfig, HeadConfig, LearnedConfig, NormConfig, StackConfig, TransformerConfig
from ...nn.feedforward import ACTIVATIONS
from ..config import ConfigReader
from ..names import Rule
from .base import Family


def read(config: ConfigReader) -> TransformerConfig:
    width, heads = config.integer("hidden_size", 768), config.integer("num_attention_heads", 12)
    if width % heads:
        raise config.error("num_attention_heads", f"must divide hidden_size = {width}")
    activation = config.choice("hidden_act", "gelu", ACTIVATIONS)
    dropout = config.probability("hidden_dropout_prob", 0.1)
    config.only(position_embedding_type="absolute")
    config.inert("classifier_dropout")
    encoder = StackConfig(
        layers=config.layers("num_hidden_layers", 12),
        vocab_size=config.integer("vocab_size", 30522),
        context=config.integer("max_position_embeddings", 512),
        attention=AttentionConfig(
            heads=heads,
            kv_heads=heads,
            head_dim=width // heads,
            dropout=config.probability("attention_probs_dropout_prob", 0.1),
        ),
        feed_forward=FeedForwardConfig(width=config.integer("intermediate_size", 3072), activation=activation),
        norm=NormConfig("layer", config.number("layer_norm_eps", 1e-12)),
        positions=LearnedConfig(),
        norm_first=False,
        embedding_norm=True,
        token_types=config.integer("type_vocab_size", 2),
        dropout=dropout,
        embedding_dropout=dropout,
    )
    return TransformerConfig(
        width=width,
        encoder=encoder,
        decoder=None,
        head=HeadConfig(tied=config.flag("tie_word_embeddings", True), bias=True, transform=activation),
        init_std=config.number("initializer_range", 0.02),
    )


def rules(config: TransformerConfig) -> list[Rule]:
    block, layer = "encoder.blocks.{}", "bert.encoder.layer.{}"
    bias = "cls.predictions.bias" if config.head.tied else "cls.predictions.decoder.bias"
    return [
        Rule("bert.embeddings.word_embeddings", "encoder.embeddings.tokens"),
        Rule("bert.embeddings.position_embeddings", "encoder.embeddings.positions"),
        Rule("bert.embeddings.token_type_embeddings", "encoder.embeddings.types"),
        Rule("bert.embeddings.LayerNorm", "encoder.embeddings.norm"),
        Rule(f"{layer}.attention.self.query", f"{block}.attention.q"),
        Rule(f"{layer}.attention.self.key", f"{block}.attention.k"),
        Rule(f"{layer}.attention.self.value", f"{block}.attention.v"),
        Rule(f"{layer}.attention.output.dense", f"{block}.attention.out"),
        Rule(f"{layer}.attention.output.LayerNorm", f"{block}.attention_residual.norm"),
        Rule(f"{layer}.intermediate.dense", f"{block}.feed_forward.up"),
        Rule(f"{layer}.output.dense", f"{block}.feed_forward.down"),
        Rule(f"{layer}.output.LayerNorm", f"{block}.feed_forward_residual.norm"),
        Rule("cls.predictions.transform.dense", "head.transform.dense"),
        Rule("cls.predictions.transform.LayerNorm", "head.transform.norm"),
        Rule(bias, "head.bias"),
        Rule("cls.predictions.decoder.weight", "head.weight"),
    ]


FAMILY = Family(
    model_type="bert",
    architectures=("BertForMaskedLM",),
    read=read,
    rules=rules,
    ignored=r"bert\.pooler\..*|cls\.seq_relationship\..*|bert\.embeddings\.position_ids"
    r"|cls\.predictions\.(decoder\.)?bias",
    copies=r"cls\.predictions\.decoder\.weight",
)
