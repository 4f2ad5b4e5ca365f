"""A config.json is read field by field: each kind of wrong value is refused with its name, and so is what nobody asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gamut.checkpoint.config import GENERATION, INERT, ConfigReader
from gamut.errors import ConfigError

PATH = Path("m/config.json")


def reader(**fields: Any) -> ConfigReader:
    return ConfigReader(fields, PATH)


def test_values_come_as_they_are():
    config = reader(size=3, rate=1, odds=0.5, bias=True, kind="b", more={"x": 1})
    assert config.integer("size") == 3
    assert (config.number("rate"), type(config.number("rate"))) == (1.0, float)
    assert config.probability("odds") == 0.5
    assert config.flag("bias", False) is True
    assert config.choice("kind", "a", {"a": 0, "b": 0}) == "b"
    assert config.mapping("more") == {"x": 1}
    config.finish()


@pytest.mark.parametrize("fields", [{}, {"size": None, "rate": None, "odds": None, "bias": None, "kind": None, "more": None}])
def test_null_and_missing_give_the_default(fields):
    config = reader(**fields)
    assert config.integer("size", 5) == 5
    assert config.number("rate", 0.1) == 0.1
    assert config.probability("odds", 0.2) == 0.2
    assert config.flag("bias", True) is True
    assert config.choice("kind", "a", {"a": 0}) == "a"
    assert config.mapping("more") == {}
    assert config.absent("size")
    config.finish()


def test_a_field_without_default_is_named_when_it_is_missing():
    with pytest.raises(ConfigError, match=r"m/config.json: the field size is missing; expected an integer from 1 to 16777216"):
        reader().integer("size")


@pytest.mark.parametrize("value", ["3", 3.0, True, 0, -1, [3], {}])
def test_integers_of_at_least_one(value):
    with pytest.raises(ConfigError, match=r"m/config.json: size = .* must be an integer from 1 to 16777216"):
        reader(size=value).integer("size")


@pytest.mark.parametrize("value", ["0.1", True, -0.1, [0.1], float("nan"), float("inf")])
def test_numbers_of_at_least_zero(value):
    with pytest.raises(ConfigError, match=r"rate = .* must be a number of at least 0"):
        reader(rate=value).number("rate", 1.0)


@pytest.mark.parametrize("value", ["0.1", True, -0.1, 1.1, float("nan")])
def test_probabilities(value):
    with pytest.raises(ConfigError, match=r"odds = .* must be a number from 0 to 1"):
        reader(odds=value).probability("odds", 0.1)


@pytest.mark.parametrize("value", [1, 0, "true", []])
def test_flags_are_true_or_false(value):
    with pytest.raises(ConfigError, match=r"bias = .* must be true or false"):
        reader(bias=value).flag("bias", False)


def test_an_unknown_choice_names_the_nearest():
    with pytest.raises(ConfigError, match=r"kind = 'gelo' is not implemented; did you mean 'gelu'\? \(known: relu, gelu\)"):
        reader(kind="gelo").choice("kind", "relu", {"relu": 0, "gelu": 0})
    with pytest.raises(ConfigError, match=r"kind = 3 must be a text"):
        reader(kind=3).choice("kind", "relu", {"relu": 0})


def test_objects():
    with pytest.raises(ConfigError, match=r"more = \[1\] must be an object"):
        reader(more=[1]).mapping("more")


def test_a_field_that_is_implemented_at_one_value_alone():
    reader(clip=False).only(clip=False)
    reader(clip=None).only(clip=False)
    with pytest.raises(ConfigError, match="clip = True is not implemented at this value, only at False"):
        reader(clip=True).only(clip=False)


def test_what_is_left_is_refused_with_all_its_names_and_the_nearest_known():
    config = reader(model_type="odd", hidden_sise=4, invented=True, zero=None)
    config.integer("hidden_size", 8)
    expected = (
        r"not implemented for model_type 'odd': hidden_sise = 4; did you mean 'hidden_size'\?, invented = True\. "
        r"They could change the model's numbers"
    )
    with pytest.raises(ConfigError, match=expected):
        config.finish()


def test_fields_that_change_no_number_are_accepted_whatever_they_say():
    config = reader(**dict.fromkeys([*INERT, *GENERATION, "own"], "anything"))
    config.inert("own")
    config.finish()


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("is_decoder", False, True),
        ("is_encoder_decoder", False, True),
        ("add_cross_attention", False, True),
        ("tie_encoder_decoder", False, True),
        ("cross_attention_hidden_size", None, 8),
        ("pruned_heads", {}, {"0": [1]}),
        ("quantization_config", None, {"bits": 4}),
    ],
)
def test_fields_of_every_class(name, accepted, refused):
    reader(**{name: accepted}).finish()
    with pytest.raises(ConfigError, match=rf"{name} = .* is not implemented at this value, only at"):
        reader(**{name: refused}).finish()


def test_a_stack_has_a_number_of_layers_that_can_be_built():
    assert reader(layers=4096).layers("layers", 1) == 4096
    with pytest.raises(ConfigError, match="layers = 4097 must be at most 4096"):
        reader(layers=4097).layers("layers", 1)
