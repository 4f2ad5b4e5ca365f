"""The options that say how tokens are chosen: one for each field of `SamplingParams`, under its name with dashes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Literal

import typer

from ..errors import OptionError


@dataclass(frozen=True, slots=True)
class SamplingOption:
    """How one field of `SamplingParams` is written on the command line."""

    kind: Any
    """The type that typer parses; its absence is ``None``."""
    help: str
    metavar: str | None = None
    """What the help calls the value; ``None``: the name of its type."""
    convert: Callable[[Any], Any] | None = None
    """From what typer parsed to the field's value; ``None``: it is the value."""


def parse_biases(entries: list[str]) -> dict[int, float]:
    """``["42=-5", "7=-inf"]`` -> ``{42: -5.0, 7: -inf}``.

    Raises:
        OptionError: an entry has another form, or an id comes twice.
    """
    biases: dict[int, float] = {}
    for entry in entries:
        id_text, _, value_text = entry.partition("=")
        try:
            token, value = int(id_text), float(value_text)
        except ValueError:
            raise OptionError(f"--logit-bias must be ID=VALUE, as in 42=-5 or 42=-inf, got {entry!r}") from None
        if token in biases:
            raise OptionError(f"--logit-bias names the id {token} twice, with {biases[token]} and {value}; leave one out")
        biases[token] = value
    return biases


_EARLY_STOPPING: Mapping[str, bool | str] = {"true": True, "false": False, "never": "never"}

SAMPLING_OPTIONS: Mapping[str, SamplingOption] = {
    "max_new_tokens": SamplingOption(int, "Most tokens to generate."),
    "min_new_tokens": SamplingOption(int, "Tokens before which no end-of-sequence token may come."),
    "logit_bias": SamplingOption(
        list[str],
        "Added to the logit of this token id; -inf forbids it. May be given again.",
        metavar="ID=VALUE",
        convert=parse_biases,
    ),
    "repetition_penalty": SamplingOption(float, "Makes tokens of prompt and output less likely; 1 is off."),
    "frequency_penalty": SamplingOption(float, "Subtracted once per earlier occurrence in the output; 0 is off."),
    "presence_penalty": SamplingOption(float, "Subtracted once from every token that the output holds; 0 is off."),
    "no_repeat_ngram_size": SamplingOption(int, "No run of this many tokens occurs twice; 0 is off."),
    "temperature": SamplingOption(float, "Divides the logits; 0 takes the most probable token always."),
    "top_k": SamplingOption(int, "Keep this many most probable tokens; 0 is off."),
    "top_p": SamplingOption(float, "Keep the fewest tokens whose probability reaches this; 1 is off."),
    "min_p": SamplingOption(float, "Drop tokens less probable than this times the most probable; 0 is off."),
    "typical_p": SamplingOption(float, "Keep the tokens of most typical information up to this mass; 1 is off."),
    "seed": SamplingOption(int, "The same seed gives the same text; without one every run differs."),
    "num_return_sequences": SamplingOption(int, "How many samples, or best hypotheses of a beam search, to return."),
    "num_beams": SamplingOption(int, "Width of the beam search; 1 is off."),
    "length_penalty": SamplingOption(float, "Beam scores are divided by length to this power."),
    "early_stopping": SamplingOption(
        Literal["true", "false", "never"],
        "End the beam search when enough hypotheses are finished (true), when a better one is unlikely (false) or "
        "impossible (never).",
        convert=lambda word: _EARLY_STOPPING[word],
    ),
    "stop": SamplingOption(list[str], "A text at which generation ends, itself left out. May be given again.", metavar="TEXT"),
    "logprobs": SamplingOption(int, "Return log-probabilities, with this many alternatives per token."),
}

Command = Callable[..., None]


def with_sampling(*, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command the sampling options.

    The command takes a keyword argument `sampling`: a mapping from the names of `SamplingParams` to the values of those options
    that were given, ready for `LanguageModel.generate`.

    Args:
        without: fields that this command cannot obey, and so does not offer.
    """
    offered = {name: option for name, option in SAMPLING_OPTIONS.items() if name not in without}

    def extend(command: Command) -> Command:
        @wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in offered}
            sampling = {name: _value(offered[name], value) for name, value in values.items() if value not in (None, [])}
            command(**given, sampling=sampling)

        own = signature(command, eval_str=True)
        kept = [parameter for name, parameter in own.parameters.items() if name != "sampling"]
        parameters = [*kept, *(_parameter(name, option) for name, option in offered.items())]
        # typer reads both: the signature for the order and the defaults, the annotations for the types.
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
        return run

    return extend


def _parameter(name: str, option: SamplingOption) -> Parameter:
    default = typer.Option(None, help=option.help, metavar=option.metavar, show_default=False)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=option.kind | None)


def _value(option: SamplingOption, given: Any) -> Any:
    return given if option.convert is None else option.convert(given)
