"""Ids to text while they are being generated: `TextStream` gives each id's text as soon as it is certain."""

from __future__ import annotations

from .decoders import incremental
from .tokenizer import Tokenizer


class TextStream:
    """The text of a growing sequence of ids.

    The texts that `push` and `finish` return, joined, equal ``tokenizer.decode(ids)``, whatever the ids. No text is taken
    back: half a character waits until it is complete, or until it is certain that it stays incomplete (U+FFFD). The cost of
    an id does not grow with the length of the sequence.

    Args:
        tokenizer: whose ids they are.
        skip_special_tokens: leave special tokens out of the text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._decoder = incremental(tokenizer.backend)

    def push(self, id: int) -> str:
        """Take the next id; return the text that it makes certain, which may be empty."""
        token = None if id in self._skipped else self._tokenizer.token(id)
        return "" if token is None else self._decoder.push(token)

    def finish(self) -> str:
        """Return the rest of the text: no id follows."""
        return self._decoder.finish()
