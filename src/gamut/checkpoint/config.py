"""Reading a config.json field by field, so that nothing in it is overlooked: what is not asked for is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from ..errors import ConfigError, nearest

_MISSING: Any = object()
_LARGEST = 1 << 24
_MOST_LAYERS = 1 << 12


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Fields that change no number: bookkeeping, outputs to return, and settings of training or of other heads.
INERT = _words("""
    architectures model_type transformers_version torch_dtype dtype _name_or_path _commit_hash _attn_implementation
    _attn_implementation_autoset use_cache output_attentions output_hidden_states return_dict return_dict_in_generate
    output_scores torchscript id2label label2id num_labels _num_labels task_specific_params problem_type finetuning_task
    tokenizer_class prefix chunk_size_feed_forward gradient_checkpointing use_bfloat16 output_past auto_map
""")

# Fields that generation reads (checkpoint/generation.py); older directories keep them in config.json.
GENERATION = _words("""
    bos_token_id eos_token_id pad_token_id decoder_start_token_id sep_token_id forced_bos_token_id forced_eos_token_id
    max_length min_length max_new_tokens min_new_tokens do_sample temperature top_k top_p min_p typical_p num_beams
    length_penalty early_stopping repetition_penalty no_repeat_ngram_size num_return_sequences bad_words_ids
    suppress_tokens begin_suppress_tokens renormalize_logits num_beam_groups diversity_penalty
    encoder_no_repeat_ngram_size remove_invalid_values exponential_decay_length_penalty
""")

# Fields of every class that have no part here: only these values are accepted.
_COMMON: dict[str, Any] = {
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
}


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


class ConfigReader:
    """A config.json whose fields are taken one by one; `finish` refuses those that are left.

    A field that is null counts as absent, as it does in transformers.
    """

    def __init__(self, raw: Mapping[str, Any], path: Path) -> None:
        self.raw, self.path = raw, path
        self._seen: set[str] = set()

    def integer(self, name: str, default: int = _MISSING) -> int:
        """A whole number of at least 1 and at most `_LARGEST`, beyond which a size can only be a mistake."""
        expected = f"an integer from 1 to {_LARGEST}"
        return int(self._take(name, default, expected, lambda v: type(v) is int and 1 <= v <= _LARGEST))

    def layers(self, name: str, default: int) -> int:
        """A number of layers."""
        count = self.integer(name, default)
        if count > _MOST_LAYERS:
            raise self.error(name, f"must be at most {_MOST_LAYERS}")
        return count

    def number(self, name: str, default: float = _MISSING) -> float:
        """A number of at least 0."""
        return float(self._take(name, default, "a number of at least 0", lambda v: is_number(v) and v >= 0))

    def probability(self, name: str, default: float = _MISSING) -> float:
        """A number from 0 to 1."""
        return float(self._take(name, default, "a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1))

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return bool(self._take(name, default, "true or false", lambda v: isinstance(v, bool)))

    def choice(self, name: str, default: str, choices: Mapping[str, Any]) -> str:
        """One of the names in `choices`."""
        value = self._take(name, default, "a text", lambda v: isinstance(v, str))
        if value not in choices:
            raise ConfigError(
                f"{self.path}: {name} = {value!r} is not implemented{nearest(value, choices)} (known: {', '.join(choices)})"
            )
        return str(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object of fields; empty where it is absent."""
        value: Mapping[str, Any] = self._take(name, {}, "an object", lambda v: isinstance(v, dict))
        return value

    def absent(self, name: str) -> bool:
        """Whether the field is missing or null."""
        return self.raw.get(name) is None

    def inert(self, *names: str) -> None:
        """These fields change no number, whatever they say."""
        self._seen.update(names)

    def only(self, **accepted: Any) -> None:
        """These fields are implemented at one value alone, their class's default.

        Raises:
            ConfigError: a field has another value.
        """
        for name, value in accepted.items():
            self._seen.add(name)
            if not self.absent(name) and self.raw[name] != value:
                raise self.error(name, f"is not implemented at this value, only at {value!r}")

    def finish(self) -> None:
        """Refuse every field that was neither taken nor declared.

        Raises:
            ConfigError: names all of them.
        """
        self.only(**{name: value for name, value in _COMMON.items() if name not in self._seen})
        known = self._seen | INERT | GENERATION
        left = sorted(name for name, value in self.raw.items() if name not in known and value is not None)
        if left:
            listed = ", ".join(f"{name} = {self.raw[name]!r}{nearest(name, self._seen)}" for name in left)
            raise ConfigError(
                f"{self.path}: fields that are not implemented for model_type {self.raw.get('model_type')!r}: {listed}. "
                "They could change the model's numbers; take them out only if you know that they do not"
            )

    def error(self, name: str, problem: str) -> ConfigError:
        """An error about one field."""
        return ConfigError(f"{self.path}: {name} = {self.raw.get(name)!r} {problem}")

    def _take(self, name: str, default: Any, expected: str, fits: Any) -> Any:
        self._seen.add(name)
        if self.absent(name):
            if default is _MISSING:
                raise ConfigError(f"{self.path}: the field {name} is missing; expected {expected}")
            return default
        if not fits(self.raw[name]):
            raise self.error(name, f"must be {expected}")
        return self.raw[name]
