"""What a family file says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...nn import TransformerConfig
from ..config import ConfigReader
from ..names import Rule


@dataclass(frozen=True, slots=True)
class Family:
    """A way of writing a Transformer as a Hugging Face directory."""

    model_type: str
    architectures: tuple[str, ...]
    """Names of the transformers classes that are read; the first is meant where a config names none."""
    read: Callable[[ConfigReader], TransformerConfig]
    """The config map."""
    rules: Callable[[TransformerConfig], Sequence[Rule]]
    """The weight-name map."""
    prefix: str = ""
    """What names begin with, and lack where the model was saved without its head."""
    ignored: str = r"(?!)"
    """Regular expression of tensors that old files hold and that carry nothing of this model."""
    copies: str = r"(?!)"
    """Regular expression of tensors that some files hold although the config ties them to the token embedding."""
