"""Stop texts: output ends before the first of them, and no part of one is ever shown."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import OptionError
from .stream import TextStream
from .tokenizer import Tokenizer


class StopText:
    """Passes a stream of text on, up to the earliest stop text.

    Text that may be the beginning of a stop text is held back until it is certain what it is. Where two stop texts begin at
    the same place, either ends the output there.

    Args:
        stops: the stop texts; none at all lets everything pass.

    Raises:
        OptionError: for an empty stop text, which would be found everywhere.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise OptionError("a stop text must not be empty; leave it out")
        self.stopped = False
        """Whether a stop text was found."""
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next text; return what may be shown now. After a stop text, that is nothing."""
        if self.stopped:
            return ""
        text = self._held + text
        found = self._find(text)
        # A stop text that is still incomplete may begin before one that is complete: "abcd" and "bc" in "abc".
        cut = self._first_beginning(text)
        if found is not None and found <= cut:
            self.stopped = True
            self._held = ""
            return text[:found]
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """Return what was held back and may be shown after all: no text follows."""
        text, self._held = self._held, ""
        found = self._find(text)
        self.stopped = self.stopped or found is not None
        return text[:found]

    def _find(self, text: str) -> int | None:
        """Where the earliest complete stop text begins."""
        return min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=None)

    def _first_beginning(self, text: str) -> int:
        """Where the longest end of `text` begins that is the beginning, and no more, of a stop text; else its length."""
        longest = max(map(len, self._stops), default=1)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            rest = text[start:]
            if any(len(rest) < len(stop) and stop.startswith(rest) for stop in self._stops):
                return start
        return len(text)


class StopIds:
    """The same on ids, for a generator that knows ids alone: called with each new id, it says whether to stop.

    Args:
        tokenizer: whose ids they are.
        stops: the stop texts, looked for in the text without special tokens, as it is shown.

    Raises:
        OptionError: for an empty stop text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._stream = TextStream(tokenizer)
        self._stop = StopText(stops)

    def __call__(self, id: int) -> bool:
        """Take the next id; return whether a stop text has appeared."""
        self._stop.push(self._stream.push(id))
        return self._stop.stopped
