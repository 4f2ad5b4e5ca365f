"""Text to ids and back: tokenizers, chats, streams of text, and stop texts."""

from .chat import chat_ids, render
from .stop import StopIds, StopText
from .stream import TextStream
from .tokenizer import TOKENIZER_FILES, Piece, Tokenizer
from .training import KINDS, Kind, train

__all__ = [
    "KINDS",
    "TOKENIZER_FILES",
    "Kind",
    "Piece",
    "StopIds",
    "StopText",
    "TextStream",
    "Tokenizer",
    "chat_ids",
    "render",
    "train",
]
