"""The doors: the small values that pass between rooms.

Nothing here imports a heavy package, so any room may import it at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, Literal

from .errors import OptionError, nearest

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


Prompt = str | Sequence[Message]
"""A text to go on from, or one chat."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next tokens are chosen. ``None`` means: what the checkpoint's generation_config.json says.

    The order in which the filters act is that of the fields from `logit_bias` to `typical_p`.
    """

    max_new_tokens: int | None = None
    """Most tokens to generate. Without a value here or in the checkpoint: 256, or what the context still holds."""
    min_new_tokens: int | None = None
    """Tokens before which no end-of-sequence token may come."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of these token ids; ``-inf`` forbids one."""
    repetition_penalty: float | None = None
    """Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off (CTRL, Keskar 2019)."""
    frequency_penalty: float | None = None
    """Subtracted once per earlier occurrence in the output; 0 is off (OpenAI)."""
    presence_penalty: float | None = None
    """Subtracted once from every token that the output holds; 0 is off (OpenAI)."""
    no_repeat_ngram_size: int | None = None
    """No n-gram of this many tokens occurs twice in prompt and output; 0 is off."""
    temperature: float | None = None
    """Divides the logits; 0 is greedy. ``None``: greedy unless the checkpoint says ``do_sample``."""
    top_k: int | None = None
    """Keep this many most probable tokens; 0 is off. There is no hidden default."""
    top_p: float | None = None
    """Keep the fewest tokens whose probability reaches this; 1 is off (nucleus, Holtzman 2020)."""
    min_p: float | None = None
    """Drop tokens less probable than this times the most probable one; 0 is off (Nguyen 2024)."""
    typical_p: float | None = None
    """Keep the tokens of most typical information up to this mass; 1 is off (Meister 2022)."""
    seed: int | None = None
    """Seed of this call's own random generator; ``None`` draws a fresh one."""
    num_return_sequences: int | None = None
    """How many samples (or, with beams, best hypotheses) to return."""
    num_beams: int | None = None
    """Width of the beam search; 1 is off."""
    length_penalty: float | None = None
    """Beam scores are divided by length to this power (Wu 2016)."""
    early_stopping: bool | Literal["never"] | None = None
    """Stop when `num_beams` hypotheses are finished (True), when a better one is unlikely (False) or impossible ("never")."""
    stop: str | Sequence[str] | None = None
    """Texts at which generation ends; they are not part of the returned text."""
    logprobs: int | None = None
    """Return log-probabilities, with this many alternatives per token (0: the chosen token alone)."""

    def __post_init__(self) -> None:
        for name, (kind, in_range, expected) in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not (_is_number(value, kind) and in_range(value)):
                raise OptionError(f"{name} must be {expected}, got {value!r}")
        if not (self.early_stopping is None or isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise OptionError(f'early_stopping must be true, false or "never", got {self.early_stopping!r}')
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if stops is not None and not (isinstance(stops, Sequence) and all(isinstance(text, str) and text for text in stops)):
            raise OptionError(f"stop must be a non-empty text or a list of them, got {self.stop!r}")
        if self.logit_bias is not None and not _is_bias(self.logit_bias):
            raise OptionError(f"logit_bias must map token ids of 0 or more to numbers or -inf, got {self.logit_bias!r}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SamplingParams:
        """Build from keyword options.

        Raises:
            OptionError: for an unknown name (with the nearest known one) or a value outside its range.
        """
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise OptionError(f"unknown sampling option {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        return cls(**options)

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """These values, with `defaults` wherever this one has ``None``."""
        return replace(defaults, **{f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None})


# What each numeric option takes: its type, and the range as a test and in words.
_NUMBERS: dict[str, tuple[type, Callable[[float], bool], str]] = {
    "max_new_tokens": (int, lambda v: v >= 1, "an integer of at least 1"),
    "min_new_tokens": (int, lambda v: v >= 0, "an integer of at least 0"),
    "repetition_penalty": (float, lambda v: v > 0, "a number above 0"),
    "frequency_penalty": (float, isfinite, "a number"),
    "presence_penalty": (float, isfinite, "a number"),
    "no_repeat_ngram_size": (int, lambda v: v >= 0, "an integer of at least 0"),
    "temperature": (float, lambda v: v >= 0, "a number of at least 0"),
    "top_k": (int, lambda v: v >= 0, "an integer of at least 0"),
    "top_p": (float, lambda v: 0 < v <= 1, "a number above 0 and at most 1"),
    "min_p": (float, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    "typical_p": (float, lambda v: 0 < v <= 1, "a number above 0 and at most 1"),
    "seed": (int, lambda v: 0 <= v < 2**63, "an integer from 0 to 2**63 - 1"),
    "num_return_sequences": (int, lambda v: v >= 1, "an integer of at least 1"),
    "num_beams": (int, lambda v: v >= 1, "an integer of at least 1"),
    "length_penalty": (float, isfinite, "a number"),
    "logprobs": (int, lambda v: v >= 0, "an integer of at least 0"),
}


def _is_number(value: object, kind: type) -> bool:
    accepted = (int,) if kind is int else (int, float)
    return isinstance(value, accepted) and not isinstance(value, bool) and abs(value) < 2**63


def _is_bias(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        type(token) is int and token >= 0 and isinstance(bias, int | float) and not isinstance(bias, bool) and bias < 2**63
        for token, bias in value.items()
    )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log-probabilities of one generated token, before and after the filters."""

    id: int
    raw: float
    """Under the model's own distribution."""
    filtered: float
    """Under the distribution that it was drawn from; for greedy choice, that of the penalised logits."""
    top_raw: tuple[tuple[int, float], ...] = ()
    """The most probable tokens of the model's own distribution, best first."""
    top_filtered: tuple[tuple[int, float], ...] = ()
    """The most probable tokens after the filters; those that were cut do not appear."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One step of a streamed answer. Joined, the texts of a stream equal the completion's text."""

    text: str
    """What became readable with this token; empty while a character or a stop text is incomplete."""
    id: int
    logprob: float | None = None
    """Natural log-probability under the model's own distribution, where it was asked for."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk alone."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer."""

    text: str
    ids: tuple[int, ...]
    """The generated token ids, the end-of-sequence token included where there was one."""
    finish_reason: FinishReason
    prompt_tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    score: float | None = None
    """Beam search's length-normalised score."""
    alternatives: tuple[Completion, ...] = ()
    """The other samples where `num_return_sequences` is above 1."""
