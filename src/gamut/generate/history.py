"""The small values that every decoding strategy shares: what a row has read, what ends it, what a step decides, what comes out.

Shapes: R rows of one sequence (samples or beams), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..errors import OptionError
from ..types import FinishReason, TokenLogprob

if TYPE_CHECKING:
    from torch import Tensor

StopCondition = Callable[[int], bool]
"""Fed each generated id of one row in turn; True ends the row after that token. It may keep state, so each row has its own."""


@dataclass(slots=True)
class History:
    """The ids that one row has read so far."""

    prompt: tuple[int, ...]
    """Ids before the first generated one; for an encoder-decoder, what the decoder starts with."""
    output: list[int] = field(default_factory=list)
    """Generated ids."""

    @property
    def ids(self) -> list[int]:
        """Prompt and output."""
        return [*self.prompt, *self.output]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)

    def extended(self, token: int) -> History:
        """A copy with one more generated id."""
        return History(self.prompt, [*self.output, token])


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a sequence, and the ids that the checkpoint forces or forbids.

    Raises:
        OptionError: for `max_new_tokens` below 1, a negative id or an empty bad word.
    """

    max_new_tokens: int
    """Most tokens to generate."""
    eos_ids: tuple[int, ...] = ()
    """Any of these ends a row; empty where the model has no such token."""
    forced_bos_id: int | None = None
    """The only choice after a prompt of one token (the target language of mBART, say)."""
    forced_eos_ids: tuple[int, ...] = ()
    """The only choices for the last of `max_new_tokens`."""
    suppress: tuple[int, ...] = ()
    """Never chosen."""
    begin_suppress: tuple[int, ...] = ()
    """Not chosen as the first token (after the forced one, where there is one)."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Runs of ids that never occur complete."""
    renormalize: bool = False
    """Make the filtered scores of a beam search log-probabilities again; no other choice depends on it."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise OptionError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if () in self.bad_words:
            raise OptionError(
                f"bad_words must be runs of at least one token id, got {self.bad_words!r}; leave the empty one out"
            )
        forced_bos = () if self.forced_bos_id is None else (self.forced_bos_id,)
        groups = (self.eos_ids, forced_bos, self.forced_eos_ids, self.suppress, self.begin_suppress, *self.bad_words)
        negative = sorted({token for group in groups for token in group if token < 0})
        if negative:
            raise OptionError(f"the ids that end, force or forbid tokens must be 0 or more, got {negative}; leave them out")


@dataclass(frozen=True, slots=True)
class Emitted:
    """A token that is decided for good, for whoever streams."""

    sample: int
    """Which of the results it belongs to."""
    id: int
    logprob: TokenLogprob | None
    finish_reason: FinishReason | None
    """Set on the last token of its result."""


@dataclass(frozen=True, slots=True)
class Step:
    """How the rows go on: row i of the next step continues current row `parents[i]` with `tokens[i]`."""

    parents: list[int]
    """May repeat rows and leave rows out; empty when nothing is left to run."""
    tokens: list[int]
    """One for each of `parents`."""
    emitted: list[Emitted]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One result."""

    ids: tuple[int, ...]
    """The generated ids, the one that ended it included."""
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    """One for each id, where `SamplingParams.logprobs` asked for them."""
    score: float | None
    """Beam search's length-normalised sum of log-probabilities; None without beams."""


class Strategy(Protocol):
    """Turns the logits of one sequence's rows into their next tokens, until nothing is left to run."""

    @property
    def width(self) -> int:
        """Most rows that it ever occupies."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to run."""

    def advance(self, logits_RV: Tensor) -> Step:
        """Choose from the logits of the current rows: one row, the prompt's, the first time; then those of the last `Step`.

        Raises:
            GamutError: where the logits hold NaN or infinity, or the filters leave nothing to choose from.
        """

    def results(self) -> list[Hypothesis]:
        """Samples in their order, or beam search's best first; before `done`, what still runs ends as "cancelled"."""


def finish_reason(token: int, length: int, limits: Limits, stop: StopCondition | None) -> FinishReason | None:
    """Why the row ends after `token`, its `length`-th generated one; None where it goes on. Feeds the token to `stop`."""
    if token in limits.eos_ids or (stop is not None and stop(token)):
        return "stop"
    return "length" if length >= limits.max_new_tokens else None
