"""Models behind one set of names."""

from .local import LanguageModel
from .registry import load

__all__ = ["LanguageModel", "load"]
