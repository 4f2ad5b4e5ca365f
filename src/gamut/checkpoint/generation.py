"""The generation defaults that travel inside a checkpoint: generation_config.json, or config.json in older ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, GamutError, OptionError
from ..types import SamplingParams
from .config import GENERATION
from .io import read_json

_SAMPLING = (
    "max_new_tokens",
    "min_new_tokens",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_return_sequences",
)
_READ = {*_SAMPLING, "do_sample", "temperature", "max_length", "min_length"} | {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "renormalize_logits",
}
# Fields that change no token.
_INERT = {
    "_from_model_config",
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "sep_token_id",
    "disable_compile",
    "chat_format",
}
# Values at which a field that is not implemented does nothing.
_OFF: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (1, 1.0),
    "num_beam_groups": (1,),
    "diversity_penalty": (0, 0.0),
    "encoder_repetition_penalty": (1, 1.0),
    "encoder_no_repeat_ngram_size": (0,),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "remove_invalid_values": (False,),
    "low_memory": (False,),
}


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """How a checkpoint wants its tokens chosen."""

    raw: Mapping[str, Any] | None
    """generation_config.json as it was read; ``None``: there is none."""
    sampling: SamplingParams
    max_length: int | None = None
    """Most tokens with the prompt (decoder-only), or of the decoder with its start token."""
    min_length: int = 0
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    decoder_start_id: int | None = None
    forced_bos_id: int | None = None
    forced_eos_ids: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    renormalize: bool = False
    unsupported: tuple[str, ...] = ()
    """Fields with an effect that gamut does not have, as ``name = value``."""
    path: Path = Path("generation_config.json")

    def require_supported(self) -> None:
        """Refuse to generate otherwise than the checkpoint asks.

        Raises:
            ConfigError: names the fields that are not implemented.
        """
        if self.unsupported:
            raise ConfigError(
                f"{self.path}: generation settings that are not implemented: {', '.join(self.unsupported)}. "
                "Take them out of the file to generate without them"
            )


def read_generation(directory: Path, config: Mapping[str, Any]) -> GenerationDefaults:
    """The defaults of a directory whose config.json holds `config`.

    Raises:
        ConfigError: a field has a value that it cannot have.
    """
    path = directory / "generation_config.json"
    if path.exists():
        raw = read_json(path)
        return generation_defaults(raw, config, path, raw)
    return generation_in_config(config, directory / "config.json")


def generation_in_config(config: Mapping[str, Any], path: Path) -> GenerationDefaults:
    """The defaults that the fields of a config.json hold themselves; `path` is what errors call it."""
    fields = {name: value for name, value in config.items() if name in GENERATION}
    return generation_defaults(fields, config, path, None)


def generation_defaults(
    fields: Mapping[str, Any], config: Mapping[str, Any], path: Path, raw: Mapping[str, Any] | None
) -> GenerationDefaults:
    """Understand generation fields; special tokens that they do not name are those of `config`."""
    fields = {name: value for name, value in fields.items() if value is not None}
    specials = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    fields = {name: config[name] for name in specials if config.get(name) is not None} | fields
    do_sample, renormalize = (_flag(fields, name, path) for name in ("do_sample", "renormalize_logits"))
    try:
        sampling = SamplingParams.of(
            {name: fields[name] for name in _SAMPLING if name in fields}
            | {"temperature": fields.get("temperature", 1.0) if do_sample else 0.0}
        )
    except OptionError as error:
        raise ConfigError(f"{path}: {error}") from None
    unsupported = [
        f"{name} = {value!r}"
        for name, value in fields.items()
        if name not in _READ | _INERT and value not in _OFF.get(name, ())
    ]
    one, many = _Ids(fields, path).one, _Ids(fields, path).many
    return GenerationDefaults(
        raw=raw,
        sampling=sampling,
        max_length=one("max_length"),
        min_length=one("min_length") or 0,
        bos_id=one("bos_token_id"),
        eos_ids=many("eos_token_id"),
        pad_id=one("pad_token_id"),
        decoder_start_id=one("decoder_start_token_id"),
        forced_bos_id=one("forced_bos_token_id"),
        forced_eos_ids=many("forced_eos_token_id"),
        suppress=many("suppress_tokens"),
        begin_suppress=many("begin_suppress_tokens"),
        bad_words=_Ids(fields, path).lists("bad_words_ids"),
        renormalize=renormalize,
        unsupported=tuple(unsupported),
        path=path,
    )


def _flag(fields: Mapping[str, Any], name: str, path: Path) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{path}: {name} must be true or false, got {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class _Ids:
    """Fields that hold token ids or lengths."""

    fields: Mapping[str, Any]
    path: Path

    def one(self, name: str) -> int | None:
        value = self.fields.get(name)
        return None if value is None else self._checked(name, value)

    def many(self, name: str) -> tuple[int, ...]:
        value = self.fields.get(name, ())
        return tuple(self._checked(name, each) for each in (value if isinstance(value, list | tuple) else (value,)))

    def lists(self, name: str) -> tuple[tuple[int, ...], ...]:
        value = self.fields.get(name, ())
        if not isinstance(value, list | tuple) or not all(isinstance(each, list) and each for each in value):
            raise self._error(name, value)
        return tuple(tuple(self._checked(name, token) for token in each) for each in value)

    def _checked(self, name: str, value: Any) -> int:
        if type(value) is not int or value < 0:
            raise self._error(name, value)
        return value

    def _error(self, name: str, value: Any) -> GamutError:
        return ConfigError(f"{self.path}: {name} must be made of integers of at least 0, got {value!r}")
