"""Every error that gamut raises on purpose, in one tree.

    GamutError                   exit 1   anything that the caller can act on
    ├── UsageError               exit 2   the call itself is wrong
    │   ├── OptionError                   unknown option, or a value outside its range
    │   └── ContextOverflow               the prompt does not fit the model's context
    ├── NotFoundError            exit 3   a model or file that was named is not there
    ├── MissingError             exit 4   an optional package or a device is missing
    ├── CheckpointError          exit 1   a model directory that cannot be read or written
    │   ├── ConfigError                   config.json: a field is missing, wrong or not implemented
    │   ├── WeightsError                  a tensor is missing, unknown, truncated or misshapen
    │   └── UnsafeFileError               a pickle, which runs code when it is read
    ├── TokenizerError           exit 1   a tokenizer that cannot be read, trained or used
    ├── TemplateError            exit 1   a chat template that is missing, invalid or refuses the messages
    └── CancelledError           exit 130 the work was cancelled before it ended

A message says what was expected, what came, where, and the cure.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class GamutError(Exception):
    """Base of every error that gamut raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(GamutError):
    """The call is wrong: the arguments do not go together."""

    exit_code = 2


class OptionError(UsageError):
    """An option that does not exist, or a value that it does not take."""


class ContextOverflow(UsageError):
    """A prompt and the tokens asked for do not fit the model's context."""


class NotFoundError(GamutError):
    """A model or file that was named is not there."""

    exit_code = 3


class MissingError(GamutError):
    """An optional package or a device that this call needs is missing."""

    exit_code = 4


class CheckpointError(GamutError):
    """A model directory that cannot be read or written."""


class ConfigError(CheckpointError):
    """A configuration file with a missing, wrong or unimplemented field."""


class WeightsError(CheckpointError):
    """A weight that is missing, unknown, truncated or of the wrong shape."""


class UnsafeFileError(CheckpointError):
    """A file whose reading would run code."""


class TokenizerError(GamutError):
    """A tokenizer that cannot be read, trained or used."""


class TemplateError(GamutError):
    """A chat template that is missing, invalid or refuses the messages."""


class CancelledError(GamutError):
    """The work was cancelled before it ended."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or an empty string."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""
