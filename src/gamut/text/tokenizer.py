"""Text to token ids and back, with all that a Hugging Face directory says about it.

The ids are those of the `tokenizers` library for the directory's tokenizer.json, after the tokens that the files beside it
declare were added: the same as `transformers`' PreTrainedTokenizerFast gives.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from ..errors import NotFoundError, TokenizerError
from .roles import implied_roles

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""What a special token can be for, under the names of tokenizer_config.json."""

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
SPECIALS_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
TOKENIZER_FILES = (TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE, SPECIALS_FILE, ADDED_FILE)
"""Every file that is read; together they are the tokenizer."""

# Tokenizers of other libraries, which tokenizer.json replaces.
_FOREIGN_FILES = ("*.spm", "*.model", "vocab.txt", "vocab.json", "merges.txt")
# Any class that transformers does not build anew from the vocabulary would do; this one is known to its version 4 too.
_TOKENIZER_CLASS = "PreTrainedTokenizerFast"

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""What an added token's entry may say beside its content."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a text, and the characters ``text[start:end]`` that it stands for.

    A token that the tokenizer puts in by itself (such as ``[CLS]``) stands for none: both ends are 0.
    """

    id: int
    text: str
    """The token as the vocabulary writes it, such as ``Ġthe`` or ``##ing``."""
    start: int
    end: int


class Tokenizer:
    """A tokenizer and its special tokens, its chat template and the rest of its configuration.

    Args:
        backend: the tokenizer proper. It is not copied, and truncation and padding are switched off in it.
        config: what tokenizer_config.json says (or is to say); kept as it is when the tokenizer is saved.
        chat_template: the Jinja template that writes a chat as text.
    """

    def __init__(self, backend: Backend, config: Mapping[str, Any], chat_template: str | None = None) -> None:
        # A length that was stored for some earlier use would cut or fill our texts without a word.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
        self.backend = backend
        self.config = dict(config)
        self.chat_template = chat_template
        self.special_ids = frozenset(id for id, token in backend.get_added_tokens_decoder().items() if token.special)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a tokenizer.

        Args:
            path: a directory that holds tokenizer.json, or that file itself. What tokenizer_config.json,
                special_tokens_map.json, added_tokens.json and chat_template.jinja beside it say is taken into account. Where
                they leave the special tokens to the tokenizer's class, that class or the model's config.json tells them.

        Raises:
            NotFoundError: when there is no tokenizer.json.
            TokenizerError: when one of the files cannot be read.
        """
        file = path / TOKENIZER_FILE if path.is_dir() else path
        if not file.is_file():
            raise NotFoundError(_missing(path))
        text = _read_text(file)
        try:
            backend = Backend.from_str(text)
        except Exception as error:  # The library raises no narrower type.
            raise TokenizerError(f"{file} is not a tokenizer: {error}; write it again from its source") from error

        directory = file.parent
        config = _read_json(directory / CONFIG_FILE)
        try:
            declared = _declared_tokens(directory, config, backend)
            implied = implied_roles(config, _read_json(directory / "config.json"))
            config = {role: token for role, token in implied.items() if backend.token_to_id(token) is not None} | config
            _add_tokens(backend, declared, _named_specials(config).values(), _extra_specials(config))
            # The flags of a token written as an object are in the backend now; left here, an object of the older layout would
            # not be understood when it is read again.
            config |= {key: _content(token) for key, token in _named_specials(config).items() if key in config}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TokenizerError(
                f"{directory / CONFIG_FILE} and the files beside it must give each special token as a text or an object with a "
                f"content, and each added token under its id: {type(error).__name__}: {error}; mend the entry"
            ) from error

        template_file = directory / TEMPLATE_FILE
        if template_file.is_file():
            config.pop("chat_template", None)
            return cls(backend, config, _read_text(template_file))
        return cls(backend, config, _default_template(config.get("chat_template")))

    def save(self, path: Path) -> None:
        """Write the tokenizer into the directory `path`, which is made where it is missing.

        `transformers`' AutoTokenizer reads the same ids and the same chat template from it. Files there that belong to an
        earlier tokenizer, and would be read together with this one, are removed.
        """
        path.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            (path / name).unlink(missing_ok=True)
        config = {"tokenizer_class": _TOKENIZER_CLASS} | self.config
        _write_text(path / TOKENIZER_FILE, self.backend.to_str(pretty=True))
        _write_text(path / CONFIG_FILE, json.dumps(config, ensure_ascii=False, indent=2) + "\n")
        # A list of named templates stays in the configuration: this file would stand in for all of them.
        if self.chat_template is not None and not isinstance(config.get("chat_template"), list):
            _write_text(path / TEMPLATE_FILE, self.chat_template)

    def with_chat_template(self, chat_template: str) -> Tokenizer:
        """The same tokenizer with another chat template."""
        config = {key: value for key, value in self.config.items() if key != "chat_template"}
        return Tokenizer(self.backend, config, chat_template)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of `text`, never truncated or padded.

        Args:
            text: any text; special tokens written in it become their ids.
            add_special_tokens: let the tokenizer add what it was built to add, such as ``[CLS]`` or ``<s>``.

        Raises:
            TokenizerError: when `text` holds half of a surrogate pair, which no encoding of Unicode can write.
        """
        return self.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """`encode` for many texts at once, in parallel where the machine has several cores."""
        _check_unicode(texts)
        return [found.ids for found in self.backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids beyond the vocabulary have none.

        Raises:
            TokenizerError: for a negative id.
        """
        try:
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise TokenizerError(
                f"token ids are integers from 0 to {2**32 - 1}, got {min(ids)} to {max(ids)}; "
                "drop what stands for no token, such as the -100 of masked labels, before decoding"
            ) from error

    def pieces(self, text: str, *, add_special_tokens: bool = True) -> list[Piece]:
        """The tokens of `text` one by one, with the characters that each stands for."""
        _check_unicode([text])
        found = self.backend.encode(text, add_special_tokens=add_special_tokens)
        columns = zip(found.ids, found.tokens, found.offsets, strict=True)
        return [Piece(id, token, start, end) for id, token, (start, end) in columns]

    def token(self, id: int) -> str | None:
        """The token with this id, or None."""
        return self.backend.id_to_token(id)

    def id(self, token: str) -> int | None:
        """The id of this token, or None."""
        return self.backend.token_to_id(token)

    @property
    def specials(self) -> dict[str, str]:
        """The special tokens by what they are for: ``{"bos_token": "<s>", ...}``. A chat template can read these names."""
        return {key: _content(token) for key, token in _named_specials(self.config).items()}

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def model_max_length(self) -> int | None:
        """The longest sequence in tokens that the model takes, where the configuration says so."""
        length = self.config.get("model_max_length")
        # transformers writes 10**30 for "unknown".
        return int(length) if length is not None and length < 10**18 else None

    @property
    def bos_id(self) -> int | None:
        return self._special_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self._special_id("eos_token")

    @property
    def pad_id(self) -> int | None:
        return self._special_id("pad_token")

    @property
    def unk_id(self) -> int | None:
        return self._special_id("unk_token")

    @property
    def mask_id(self) -> int | None:
        return self._special_id("mask_token")

    def _special_id(self, role: str) -> int | None:
        token = self.config.get(role)
        return None if token is None else self.id(_content(token))


def _named_specials(config: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that have a name: the standard roles first, then the model's own."""
    named = {role: config[role] for role in ROLES if config.get(role) is not None}
    own = {key: token for key, token in config.items() if key.endswith("_token") and isinstance(token, (str, dict))}
    extra = config.get("extra_special_tokens")
    return named | own | (extra if isinstance(extra, dict) else {})


def _extra_specials(config: Mapping[str, Any]) -> list[Any]:
    """The special tokens that have none."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    return [] if isinstance(extra, dict) else list(extra)


def _content(token: Any) -> str:
    """The token itself, which a configuration writes as a text or as an object."""
    return cast(str, token["content"]) if isinstance(token, dict) else token


def _declared_tokens(directory: Path, config: dict[str, Any], backend: Backend) -> list[AddedToken]:
    """The tokens that the files beside tokenizer.json add, in the order of their ids.

    Where tokenizer_config.json does not list them, the two files of an older layout do, and then the roles that they give to
    tokens go into `config`.
    """
    if "added_tokens_decoder" in config:
        entries = sorted(config["added_tokens_decoder"].items(), key=lambda entry: int(entry[0]))
        return [_added_token(token) for _, token in entries]
    config.update(_read_json(directory / SPECIALS_FILE))
    specials = {_content(token) for token in (*_named_specials(config).values(), *_extra_specials(config))}
    numbered = {int(id): token for token, id in _read_json(directory / ADDED_FILE).items()}
    there = backend.get_added_tokens_decoder()
    return [AddedToken(token, special=token in specials) for id, token in sorted(numbered.items()) if id not in there]


def _added_token(entry: Any, **flags: bool) -> AddedToken:
    """`entry`, a text or an object, as the library's token; `flags` go over those of the object."""
    own = {key: entry[key] for key in _FLAGS if key in entry} if isinstance(entry, dict) else {}
    return AddedToken(_content(entry), **(own | flags))


def _add_tokens(backend: Backend, declared: Iterable[AddedToken], named: Collection[Any], extra: Iterable[Any]) -> None:
    """Add what tokenizer.json lacks: the `declared` tokens with all their flags, then the special tokens."""
    there = backend.get_added_tokens_decoder().values()
    present = {repr(token) for token in there}
    new = [token for token in declared if repr(token) not in present]
    names = {_content(entry) for entry in named}
    for token in new:
        token.special = token.special or token.content in names
    known = {token.content for token in (*there, *new)}
    for entry in (*named, *extra):
        if _content(entry) not in known:
            known.add(_content(entry))
            new.append(_added_token(entry, special=True))
    backend.add_tokens(new)


def _default_template(entry: Any) -> str | None:
    """The chat template of tokenizer_config.json: a text, or a list of named ones of which "default" is meant."""
    if isinstance(entry, list):
        return next((named.get("template") for named in entry if named.get("name") == "default"), None)
    return cast("str | None", entry)


def _check_unicode(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"character {error.start} of the text is half of a surrogate pair ({text[error.start]!r}); "
                "decode the text's source with errors='replace'"
            ) from error


def _missing(path: Path) -> str:
    if not path.exists():
        return f"no tokenizer at {path}: there is no such file or directory"
    found = sorted({file.name for pattern in _FOREIGN_FILES for file in path.glob(pattern)})
    if not found:
        return f"no {TOKENIZER_FILE} in {path}; train one with: gamut tokenizer train FILES --out {path}"
    return (
        f"no {TOKENIZER_FILE} in {path}, which holds {', '.join(found)}, another library's tokenizer; convert it once with: "
        f"python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{path}').save_pretrained('{path}')\""
    )


def _read_text(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise TokenizerError(
            f"{file} must be a file, and is a directory, a pipe or a device; put the tokenizer's own file there"
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file} must be UTF-8, byte {error.start} is not; write it again from its source") from error
    except OSError as error:
        raise TokenizerError(f"{file} cannot be read: {error.strerror}") from error


def _read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; an empty one where there is no such file."""
    if not file.exists():
        return {}
    try:
        found = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{file}:{error.lineno} is not JSON: {error.msg}; mend or remove the file") from error
    except (RecursionError, ValueError):
        raise TokenizerError(f"{file} is nested too deeply, or a number in it is too long; mend or remove the file") from None
    if not isinstance(found, dict):
        raise TokenizerError(f"{file} must hold a JSON object, got {type(found).__name__}; mend or remove the file")
    return found


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
