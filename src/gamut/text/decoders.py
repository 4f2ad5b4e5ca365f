"""The decoders of the `tokenizers` library, one token at a time.

The library decodes a whole sequence of tokens at once, and what a token becomes can depend on its place: the first loses a
space, a run of bytes becomes a character when it is complete. Each class here does for one decoder what the library's does,
and gives out a piece of text as soon as no later token can change it.
"""

from __future__ import annotations

import codecs
import json
from typing import Any, Protocol

from tokenizers import Regex, decoders
from tokenizers import Tokenizer as Backend


class Decoder(Protocol):
    """One decoder at work on one sequence of tokens."""

    def push(self, token: str) -> list[str]:
        """Take the next token; return what is settled now."""
        ...

    def finish(self) -> list[str]:
        """Return the rest: no token follows."""
        ...


class Chain:
    """Decoders in a row, each working on what the one before gives out. The texts that come out at the end are joined."""

    def __init__(self, steps: list[Decoder]) -> None:
        self.steps = steps

    def push(self, token: str) -> str:
        return self._through(0, [token])

    def finish(self) -> str:
        # A decoder must have all that the ones before it hold back when it is told that no more follows.
        return "".join(self._through(i + 1, step.finish()) for i, step in enumerate(self.steps))

    def _through(self, first: int, tokens: list[str]) -> str:
        for step in self.steps[first:]:
            tokens = [out for token in tokens for out in step.push(token)]
        return "".join(tokens)


def incremental(backend: Backend) -> Chain:
    """The decoder of `backend`, for one sequence of tokens.

    Where no incremental form is known (CTC, a cut at the end, a pattern that may reach over several tokens) the text comes
    out at the end, all at once: later, but never wrong.
    """
    if backend.decoder is None:
        return Chain([Spaces()])
    spec = json.loads(backend.decoder.__getstate__())  # As in tokenizer.json, but without its vocabulary.
    steps: list[Decoder] = []
    joined = False
    for part in _flatten(spec):
        step = _after_join(part) if joined else _before_join(part)
        if step is None:
            return Chain([Whole(backend.decoder)])
        joined = joined or part["type"] in ("ByteLevel", "Fuse")
        steps.append(step)
    return Chain(steps)


def _flatten(spec: dict[str, Any]) -> list[dict[str, Any]]:
    if spec["type"] == "Sequence":
        return [part for inner in spec["decoders"] for part in _flatten(inner)]
    return [spec]


def _before_join(part: dict[str, Any]) -> Decoder | None:
    """The incremental form of a decoder that is given tokens."""
    match part["type"]:
        case "ByteLevel":
            return ByteLevel()
        case "ByteFallback":
            return ByteFallback()
        case "Fuse":
            return Fuse()
        case "WordPiece":
            return ByPlace(decoders.WordPiece(prefix=part["prefix"], cleanup=part["cleanup"]))
        case "Metaspace":
            return ByPlace(decoders.Metaspace(part["replacement"], part["prepend_scheme"], part["split"]))
        case "BPEDecoder":
            return EndOfWord(decoders.BPEDecoder(suffix=part["suffix"]))
        case "Strip":
            return Each(decoders.Strip(part["content"], part["start"], part["stop"]))
        case "Replace":
            return Each(_replace(part))
    return None


def _after_join(part: dict[str, Any]) -> Decoder | None:
    """The incremental form of a decoder that is given one long token, in parts, because one before it joined them all."""
    match part["type"]:
        case "Fuse":
            return Fuse()
        case "Strip" if part["stop"] == 0:
            return StripStart(part["content"], part["start"])
        case "Replace" if len(part["pattern"].get("String", "")) == 1:  # It cannot lie across two parts.
            return Each(_replace(part))
    return None


def _replace(part: dict[str, Any]) -> decoders.Decoder:
    pattern = part["pattern"]
    return decoders.Replace(pattern["String"] if "String" in pattern else Regex(pattern["Regex"]), part["content"])


class Fuse:
    """Joins all tokens into one; what is joined already can go out."""

    def push(self, token: str) -> list[str]:
        return [token]

    def finish(self) -> list[str]:
        return []


class Each:
    """A decoder that treats every token alike, wherever it stands."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self.decoder = decoder

    def push(self, token: str) -> list[str]:
        return [self.decoder.decode([token])]

    def finish(self) -> list[str]:
        return []


class ByPlace:
    """A decoder that treats the first token of a sequence in one way and all others in another (WordPiece, Metaspace)."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self.decoder = decoder
        self.first = True

    def push(self, token: str) -> list[str]:
        # An empty token in front takes the first place and adds no text.
        before = [] if self.first else [""]
        self.first = False
        return [self.decoder.decode([*before, token])]

    def finish(self) -> list[str]:
        return []


class EndOfWord:
    """BPEDecoder: the suffix that ends a word becomes a space, except at the last token."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self.decoder = decoder
        self.held: str | None = None

    def push(self, token: str) -> list[str]:
        held, self.held = self.held, token
        # An empty token behind makes this one not the last, and adds no text.
        return [] if held is None else [self.decoder.decode([held, ""])]

    def finish(self) -> list[str]:
        held, self.held = self.held, None
        return [] if held is None else [self.decoder.decode([held])]


class Spaces:
    """No decoder at all: the library puts a space between any two tokens."""

    def __init__(self) -> None:
        self.first = True

    def push(self, token: str) -> list[str]:
        space = "" if self.first else " "
        self.first = False
        return [space + token]

    def finish(self) -> list[str]:
        return []


class ByteLevel:
    """Every character of a token is a byte (Radford 2019); bytes become text when a character is complete."""

    def __init__(self) -> None:
        self.utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: str) -> list[str]:
        try:
            octets = bytes(_BYTE_OF[char] for char in token)
        except KeyError:  # An added token is written in characters of its own.
            octets = token.encode()
        return [self.utf8.decode(octets)]

    def finish(self) -> list[str]:
        rest = self.utf8.decode(b"", final=True)
        self.utf8.reset()
        return [rest]


class ByteFallback:
    """Tokens such as ``<0xE2>`` are bytes. A run of them becomes text as a whole, or one U+FFFD for each byte.

    The run must therefore end before any of it is known: a last byte that is wrong spoils the characters before it.
    """

    def __init__(self) -> None:
        self.decoder = decoders.ByteFallback()
        self.run: list[str] = []

    def push(self, token: str) -> list[str]:
        if self.decoder.decode([token]) != token:  # Only a byte becomes anything but itself.
            self.run.append(token)
            return []
        return [*self.finish(), token]

    def finish(self) -> list[str]:
        run, self.run = self.run, []
        if not run:
            return []
        text = self.decoder.decode(run)
        # The library hands on a spoilt run as one token for each byte.
        return list(text) if text == "\ufffd" * len(run) else [text]


class StripStart:
    """Cuts up to `count` times the character `content` off the start of the whole text."""

    def __init__(self, content: str, count: int) -> None:
        self.content = content
        self.count = count

    def push(self, token: str) -> list[str]:
        while self.count and token:
            if not token.startswith(self.content):
                self.count = 0
                break
            token = token[1:]
            self.count -= 1
        return [token]

    def finish(self) -> list[str]:
        return []


class Whole:
    """Any other decoder: all tokens are kept to the end."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self.decoder = decoder
        self.tokens: list[str] = []

    def push(self, token: str) -> list[str]:
        self.tokens.append(token)
        return []

    def finish(self) -> list[str]:
        tokens, self.tokens = self.tokens, []
        return [self.decoder.decode(tokens)]


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's character for each byte: the printable ones of Latin-1 stand for themselves, the others, in the order
    of their values, for the characters from U+0100 on (Radford 2019, as published with GPT-2)."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
