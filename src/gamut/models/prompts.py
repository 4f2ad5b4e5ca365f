"""From what a caller asks of a local model to a sequence for the engine: prompt ids, resolved options, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any

from ..checkpoint import GenerationDefaults
from ..errors import ContextOverflow, OptionError, TokenizerError, UsageError
from ..generate import Limits, Sequence, StopCondition, strategy_for
from ..nn import TransformerConfig
from ..text import StopIds, Tokenizer, chat_ids
from ..types import Message, SamplingParams

_DEFAULT_NEW_TOKENS = 256

# Options that only sampling, or only beam search, obeys.
_SAMPLING_ONLY = ("top_k", "top_p", "min_p", "typical_p")
_BEAMS_ONLY = ("length_penalty", "early_stopping")

Chat = Many[Message | Mapping[str, Any]]


def prompt_ids(tokenizer: Tokenizer, prompt: str | Chat) -> list[int]:
    """The ids of a text with the tokenizer's special tokens, or of a chat by the checkpoint's template.

    Raises:
        UsageError: the prompt is neither.
        TemplateError: a chat, and the checkpoint has no template or it refuses the messages.
    """
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    if not isinstance(prompt, list | tuple) or not all(isinstance(each, Message | Mapping) for each in prompt):
        raise UsageError(f"a prompt must be a text, or a chat as a list of messages; got {prompt!r}")
    return chat_ids(tokenizer, prompt)


def resolve_sampling(options: Mapping[str, Any], defaults: GenerationDefaults) -> SamplingParams:
    """The caller's options over the checkpoint's.

    Raises:
        OptionError: an unknown option, a value out of range, or an option that the others leave without effect.
        ConfigError: the checkpoint asks for a setting that is not implemented.
    """
    defaults.require_supported()
    asked = SamplingParams.of(options)
    params = asked.over(defaults.sampling)
    if not params.temperature:
        _refuse_idle(asked, _SAMPLING_ONLY, "at temperature 0, which is greedy; set temperature above 0")
    if (params.num_beams or 1) == 1:
        _refuse_idle(asked, _BEAMS_ONLY, "without beams; set num_beams above 1")
    return params


def _refuse_idle(asked: SamplingParams, names: tuple[str, ...], why: str) -> None:
    idle = [f"{name}={getattr(asked, name)!r}" for name in names if getattr(asked, name) is not None]
    if idle:
        raise OptionError(f"{', '.join(idle)} would have no effect {why}, or leave it out")


def build_sequence(
    ids: Many[int],
    params: SamplingParams,
    config: TransformerConfig,
    defaults: GenerationDefaults,
    tokenizer: Tokenizer | None,
) -> Sequence:
    """A sequence for the engine.

    Raises:
        ContextOverflow: prompt and new tokens are more than the context holds.
        UsageError: the model cannot generate, an id is not in its vocabulary, or the prompt is empty and there is no
            token to begin with.
    """
    if config.decoder is None:
        raise UsageError("an encoder-only model cannot generate: it reads whole texts at once; use lm.logits or lm.attention")
    prompt, start = tuple(ids), _start(config, defaults)
    if not prompt:
        if defaults.bos_id is None:
            raise UsageError("the prompt is empty, and the model has no beginning-of-sequence token; give a text to go on from")
        prompt = (defaults.bos_id,)
    check_ids(prompt, (config.encoder or config.decoder).vocab_size)
    if config.encoder is not None and len(prompt) > config.encoder.context:
        raise ContextOverflow(
            f"the prompt has {len(prompt)} tokens, and the encoder takes {config.encoder.context}; shorten it"
        )
    held = len(start or prompt)
    new = _new_tokens(held, params, defaults, config.decoder.context)
    minimum = max(0, defaults.min_length - held) if params.min_new_tokens is None else params.min_new_tokens
    limits = Limits(
        max_new_tokens=new,
        eos_ids=defaults.eos_ids,
        forced_bos_id=defaults.forced_bos_id,
        forced_eos_ids=defaults.forced_eos_ids,
        suppress=defaults.suppress,
        begin_suppress=defaults.begin_suppress,
        bad_words=defaults.bad_words,
        renormalize=defaults.renormalize,
    )
    params = replace(params, min_new_tokens=minimum)
    strategy = strategy_for(params, limits, start or prompt, stop_factory(params, tokenizer))
    return Sequence(prompt, strategy, new, start)


def stop_texts(params: SamplingParams) -> tuple[str, ...]:
    """The stop texts, however they were given."""
    return (params.stop,) if isinstance(params.stop, str) else tuple(params.stop or ())


def stop_factory(params: SamplingParams, tokenizer: Tokenizer | None) -> Callable[[], StopCondition] | None:
    """Makes the condition, on ids, that a stop text has appeared."""
    stops = stop_texts(params)
    if not stops:
        return None
    if tokenizer is None:
        raise TokenizerError("stop texts need a tokenizer, and this model has none; put a tokenizer.json into its directory")
    return lambda: StopIds(tokenizer, stops)


def _start(config: TransformerConfig, defaults: GenerationDefaults) -> tuple[int, ...]:
    if config.encoder is None:
        return ()
    start = defaults.decoder_start_id if defaults.decoder_start_id is not None else defaults.bos_id
    if start is None:
        raise UsageError("the model names no decoder_start_token_id; add it to its generation_config.json")
    return (start,)


def check_ids(ids: Iterable[int], vocab_size: int) -> None:
    """Refuse ids that are not in the vocabulary.

    Raises:
        UsageError: names them.
    """
    wrong = sorted({token for token in ids if not 0 <= token < vocab_size})
    if wrong:
        raise UsageError(f"token ids must be from 0 to {vocab_size - 1}, got {wrong[:10]}; is this tokenizer the model's own?")


def _new_tokens(held: int, params: SamplingParams, defaults: GenerationDefaults, context: int) -> int:
    """How many tokens to generate after the `held` ones that the decoder starts from."""
    room = context - held
    if room < 1 or (params.max_new_tokens or 0) > room:
        asked = f" and max_new_tokens is {params.max_new_tokens}" if params.max_new_tokens else ""
        cure = f"set max_new_tokens to at most {room}" if room >= 1 else f"shorten it by at least {1 - room} tokens"
        raise ContextOverflow(f"the prompt has {held} tokens{asked}, and the context holds {context}; {cure}")
    if params.max_new_tokens:
        return params.max_new_tokens
    if defaults.max_length is not None and defaults.max_length > held:
        return min(room, defaults.max_length - held)
    return min(room, _DEFAULT_NEW_TOKENS)
