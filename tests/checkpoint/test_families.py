"""What each family refuses: fields that it does not implement, values that do not go together, architectures of another kind.

That each reads its fields right is what tests/parity shows.
"""

from __future__ import annotations

import pytest

from gamut.checkpoint import architecture, skeleton
from gamut.checkpoint.families import FAMILIES
from gamut.checkpoint.names import slots
from gamut.errors import ConfigError


@pytest.mark.parametrize(
    ("model_type", "field", "value", "message"),
    [
        ("gpt2", "n_head", 3, "must divide n_embd = 16"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True, "not implemented at this value, only at False"),
        ("gpt2", "reorder_and_upcast_attn", True, "not implemented at this value"),
        ("gpt2", "add_cross_attention", True, "not implemented at this value"),
        ("gpt2", "activation_function", "gelo", r"is not implemented; did you mean 'gelu'\?"),
        ("gpt2", "resid_pdrop", 1.5, "must be a number from 0 to 1"),
        ("gpt2", "n_layers", 3, r"not implemented for model_type 'gpt2': n_layers = 3; did you mean 'n_layer'\?"),
        ("llama", "num_attention_heads", 3, "must divide hidden_size = 16 where head_dim is not given"),
        ("llama", "num_key_value_heads", 3, "must divide num_attention_heads = 4"),
        ("llama", "head_dim", 5, "must be even for rotary positions, and is 5"),
        ("llama", "rope_scaling", {"rope_type": "linear", "factor": 2.0}, "only rope_type default with a rope_theta is"),
        ("llama", "rope_scaling", {"type": "dynamic", "factor": 2.0}, "only rope_type default with a rope_theta is"),
        ("llama", "rope_scaling", {"rope_type": ["default"]}, "only rope_type default with a rope_theta is"),
        ("llama", "rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}, "only rope_type default"),
        ("llama", "rope_parameters", {"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "only rope_type default"),
        ("llama", "rope_parameters", {"rope_theta": "big"}, "must give a rope_theta that is a number above 0"),
        ("llama", "rope_theta", 0, "must give a rope_theta that is a number above 0"),
        ("llama", "quantization_config", {"quant_method": "awq"}, "not implemented at this value, only at None"),
        ("llama", "sliding_window", 8, "not implemented for model_type 'llama'"),
        ("bert", "num_attention_heads", 3, "must divide hidden_size = 16"),
        ("bert", "position_embedding_type", "relative_key", "not implemented at this value, only at 'absolute'"),
        ("bert", "is_decoder", True, "not implemented at this value"),
        ("bert", "type_vocab_size", 0, "must be an integer from 1 to 16777216"),
        ("marian", "encoder_attention_heads", 3, "must divide d_model = 16"),
        ("marian", "decoder_attention_heads", 3, "must divide d_model = 16"),
        ("marian", "encoder_layerdrop", 0.1, "not implemented at this value, only at 0.0"),
        ("marian", "decoder_layerdrop", 0.1, "not implemented at this value, only at 0.0"),
        ("marian", "normalize_before", True, "not implemented at this value"),
        ("marian", "static_position_embeddings", False, "not implemented at this value"),
        ("marian", "decoder_vocab_size", 50, "must equal vocab_size = 40 where embeddings are shared"),
    ],
)
def test_what_is_refused(tiny_config, model_type, field, value, message):
    architecture(tiny_config(model_type))
    with pytest.raises(ConfigError, match=message) as caught:
        architecture(tiny_config(model_type, **{field: value}))
    assert f"{field} = {value!r}" in str(caught.value)


def test_head_dim_makes_up_for_heads_that_do_not_divide(tiny_config):
    config = architecture(tiny_config("llama", num_attention_heads=6, num_key_value_heads=3, head_dim=8)).config
    assert config.decoder is not None
    assert (config.decoder.attention.heads, config.decoder.attention.kv_heads, config.decoder.attention.head_dim) == (6, 3, 8)


@pytest.mark.parametrize(
    ("fields", "base"),
    [
        ({}, 10000.0),
        ({"rope_theta": 500000}, 500000.0),
        ({"rope_scaling": None, "rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}}, 123.0),
        ({"rope_theta": 77.0, "rope_parameters": {"type": "default"}}, 77.0),
    ],
)
def test_the_ways_to_write_the_base_of_rotary_positions(tiny_config, fields, base):
    config = architecture(tiny_config("llama", **fields)).config
    assert config.decoder is not None
    assert config.decoder.positions.base == base


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_parameter_has_a_place_in_the_file(tiny_config, model_type):
    for tied in (True, False):
        arch = architecture(tiny_config(model_type, tie_word_embeddings=tied))
        parameters = dict(skeleton(arch).named_parameters())
        plan = slots(parameters, arch.family.rules(arch.config))
        assert sorted(name for slot in plan for name in slot.ours) == sorted(parameters)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_family_is_listed_under_its_own_name(model_type):
    assert FAMILIES[model_type].model_type == model_type
