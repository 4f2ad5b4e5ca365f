"""The options that say how tokens are chosen: what is refused, and how defaults fill in."""

from __future__ import annotations

from typing import Any

import pytest

from gamut import SamplingParams
from gamut.errors import OptionError


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"max_new_tokens": 2.0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": 10**400},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": float("inf")},
        {"seed": -1},
        {"early_stopping": 1},
        {"early_stopping": "sometimes"},
        {"stop": 3},
        {"stop": ["a", ""]},
        {"stop": [1]},
        {"logit_bias": "x"},
        {"logit_bias": {"3": 1.0}},
        {"logit_bias": {3: "x"}},
        {"logit_bias": {True: 1.0}},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {3: float("nan")}},
        {"logit_bias": {3: float("inf")}},
    ],
)
def test_a_value_out_of_range_names_the_option(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        SamplingParams.of(options)


def test_an_unknown_option_is_told_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'temperature'"):
        SamplingParams.of({"temprature": 1.0})


def test_a_token_may_be_forbidden_by_its_bias() -> None:
    assert SamplingParams(logit_bias={3: float("-inf")}).logit_bias == {3: float("-inf")}


def test_what_is_not_given_comes_from_the_defaults() -> None:
    merged = SamplingParams(top_k=5, temperature=0.0).over(SamplingParams(top_k=9, top_p=0.5, temperature=1.0))
    assert (merged.top_k, merged.top_p, merged.temperature) == (5, 0.5, 0.0)
