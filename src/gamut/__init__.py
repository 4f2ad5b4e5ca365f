"""gamut: the whole range of generative AI in one package.

    import gamut

    lm = gamut.load("./a-hugging-face-directory")
    for chunk in lm.stream("Once upon a time", max_new_tokens=40):
        print(chunk.text, end="", flush=True)

Everything below is imported on first use, so that ``import gamut`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .errors import GamutError
    from .models.local import LanguageModel
    from .models.registry import load
    from .types import Chunk, Completion, Message, SamplingParams, TokenLogprob

__all__ = [
    "Chunk",
    "Completion",
    "GamutError",
    "LanguageModel",
    "Message",
    "SamplingParams",
    "TokenLogprob",
    "__version__",
    "load",
]

_HOMES = {
    "Chunk": "types",
    "Completion": "types",
    "GamutError": "errors",
    "LanguageModel": "models.local",
    "Message": "types",
    "SamplingParams": "types",
    "TokenLogprob": "types",
    "load": "models.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gamut' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
