"""The model families: each a config map and a weight-name map, and nothing else.

To add one, write its file with a `FAMILY` and list it here.
"""

from __future__ import annotations

from .base import Family
from .bert import FAMILY as BERT
from .gpt2 import FAMILY as GPT2
from .llama import FAMILY as LLAMA
from .marian import FAMILY as MARIAN

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT, GPT2, LLAMA, MARIAN)}
"""By the `model_type` of a config.json."""

__all__ = ["FAMILIES", "Family"]
