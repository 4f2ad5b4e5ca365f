"""Choosing tokens: one decoding loop on ids alone, for greedy choice, sampling and beams."""

from .engine import Engine
from .history import Emitted, Hypothesis, Limits, StopCondition
from .runner import Runner
from .sequence import Handle, Sequence
from .strategy import Strategy, strategy_for

__all__ = [
    "Emitted",
    "Engine",
    "Handle",
    "Hypothesis",
    "Limits",
    "Runner",
    "Sequence",
    "StopCondition",
    "Strategy",
    "strategy_for",
]
