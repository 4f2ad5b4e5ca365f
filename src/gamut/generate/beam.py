"""Beam search over one sequence, with the candidates, scores and stopping rules of `transformers`.

Each step scores every continuation of every beam, keeps enough of the best to go on even if all that can end do end,
files those that ended, and goes on with the best of the rest.

Shapes: R beams that run, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor

from ..errors import GamutError, OptionError
from ..types import FinishReason, SamplingParams, TokenLogprob
from .history import Emitted, History, Hypothesis, Limits, Step, StopCondition, finish_reason
from .sampler import apply_filters, build_filters, generator_for, names, reject, token_logprob


@dataclass(frozen=True, slots=True)
class _Beam:
    """A hypothesis, its summed log-probability, and how it came about in the last step."""

    history: History
    total: float
    logprobs: tuple[TokenLogprob, ...] = ()
    parent: int = 0
    finish: FinishReason | None = None


class BeamSearch:
    """The `num_beams` best continuations of one prompt; above temperature 0, candidates are drawn instead of ranked.

    A finished hypothesis scores its summed log-probability divided by ``length ** length_penalty`` (after Wu 2016, section 7,
    as `transformers` simplifies it). Stop conditions keep state, which beams that share a past cannot share: a fresh one
    reads each candidate from its first token, O(length) per candidate and step.

    Raises:
        OptionError: for more return sequences than beams, a length penalty that overflows, or a `logit_bias` out of range.
    """

    def __init__(
        self,
        params: SamplingParams,
        limits: Limits,
        prompt_ids: Sequence[int],
        stop_factory: Callable[[], StopCondition] | None = None,
    ) -> None:
        self._count = params.num_beams or 1
        self._wanted = params.num_return_sequences or 1
        if self._wanted > self._count:
            raise OptionError(
                f"num_return_sequences must be at most num_beams, got {self._wanted} of {self._count}; "
                f"set num_beams to at least {self._wanted}"
            )
        self._length_penalty = 1.0 if params.length_penalty is None else params.length_penalty
        try:
            float(limits.max_new_tokens) ** abs(self._length_penalty)
        except OverflowError:
            raise OptionError(
                f"length_penalty must keep max_new_tokens ** length_penalty finite, got {self._length_penalty} "
                f"with {limits.max_new_tokens} tokens; usual values lie between -2 and 2"
            ) from None
        self._early_stopping = params.early_stopping or False
        self._limits = limits
        self._stop_factory = stop_factory
        self._top = params.logprobs
        self._filters = build_filters(params, limits)
        self._generator = generator_for(params.seed, 0) if params.temperature else None
        self._running = [_Beam(History(tuple(prompt_ids)), 0.0)]
        self._finished: list[_Beam] = []

    @property
    def width(self) -> int:
        return self._count

    @property
    def done(self) -> bool:
        return not self._running

    def advance(self, logits_RV: Tensor) -> Step:
        candidates = self._candidates(logits_RV.log_softmax(-1))
        # Candidates past the first `num_beams` only stand by, so that enough can go on: they are not filed.
        ended = [beam for beam in candidates[: self._count] if beam.finish]
        self._finished = sorted(self._finished + ended, key=self._score, reverse=True)[: self._count]
        going_on = [beam for beam in candidates if not beam.finish]
        self._running = sorted(going_on, key=lambda beam: beam.total, reverse=True)[: self._count]
        if not self._can_improve():
            self._running = []
        if self.done and len(self._finished) < self._wanted:
            raise GamutError(
                f"beam search ended with {len(self._finished)} of the {self._wanted} hypotheses asked for, because the other "
                f"beams had no token left to choose; lower num_return_sequences, or loosen the filters ({names(self._filters)})"
            )
        return Step(
            parents=[beam.parent for beam in self._running],
            tokens=[beam.history.output[-1] for beam in self._running],
            emitted=self._emit_best() if self.done else [],
        )

    def results(self) -> list[Hypothesis]:
        begun = [beam for beam in self._running if beam.history.output]
        best = sorted(self._finished + begun, key=self._score, reverse=True)[: self._wanted]
        return [
            Hypothesis(
                ids=tuple(beam.history.output),
                finish_reason=beam.finish or "cancelled",
                logprobs=None if self._top is None else beam.logprobs,
                score=self._score(beam),
            )
            for beam in best
        ]

    def _candidates(self, log_probs_RV: Tensor) -> list[_Beam]:
        """The best (or drawn) continuations of all beams, each with whether and why it ends."""
        rows = [beam.history for beam in self._running]
        scores_RV = apply_filters(self._filters, log_probs_RV, rows)
        totals_RV = scores_RV + scores_RV.new_tensor([[beam.total] for beam in self._running])
        best = float(totals_RV.max())
        # Beams without a token left die, and that is an end like any other where enough hypotheses have finished.
        exhausted = best == -inf and len(self._finished) >= self._wanted
        if not (isfinite(best) or exhausted) or (self._filters and not log_probs_RV.amax(-1).isfinite().all()):
            reject(log_probs_RV, self._filters, rows)
        vocabulary = totals_RV.shape[-1]
        totals, places = self._choose(totals_RV.flatten())
        return [
            self._continued(place // vocabulary, place % vocabulary, total, log_probs_RV, scores_RV)
            for total, place in zip(totals, places, strict=True)
            if total != -inf
        ]

    def _choose(self, totals: Tensor) -> tuple[list[float], list[int]]:
        """Totals and places of the best; with a generator, of as many drawn without replacement, in the order of drawing."""
        count = max(2, 1 + len(self._limits.eos_ids)) * self._count
        if self._generator is None:
            best = totals.topk(min(count, len(totals)))
            return best.values.tolist(), best.indices.tolist()
        probs = totals.softmax(-1).to(self._generator.device)
        possible = int((probs > 0).sum())
        if possible == 0:
            return [], []
        drawn = torch.multinomial(probs, min(count, possible), generator=self._generator)
        return totals[drawn.to(totals.device)].tolist(), drawn.tolist()

    def _continued(self, parent: int, token: int, total: float, log_probs_RV: Tensor, scores_RV: Tensor) -> _Beam:
        beam = self._running[parent]
        history = beam.history.extended(token)
        stop = self._stop_factory() if self._stop_factory else None
        if stop is not None:
            for earlier in beam.history.output:
                stop(earlier)
        logprobs = beam.logprobs
        if self._top is not None:
            logprobs += (token_logprob(token, log_probs_RV[parent], scores_RV[parent], self._top),)
        return _Beam(history, total, logprobs, parent, finish_reason(token, len(history.output), self._limits, stop))

    def _score(self, beam: _Beam) -> float:
        return float(beam.total / len(beam.history.output) ** self._length_penalty)

    def _can_improve(self) -> bool:
        """Whether the running beams may still better the finished ones, as `early_stopping` judges it."""
        if not self._running or len(self._finished) < self._count:
            return bool(self._running)
        if self._early_stopping is True:
            return False
        best = self._running[0]
        length = len(best.history.output)
        if self._early_stopping == "never" and self._length_penalty > 0:
            # A total only falls from here, but a longer hypothesis divides it by more: this is the most that it can gain.
            length = self._limits.max_new_tokens
        return bool(best.total / length**self._length_penalty > self._score(self._finished[-1]))

    def _emit_best(self) -> list[Emitted]:
        best = self._finished[0]
        last = len(best.history.output) - 1
        return [
            Emitted(0, token, best.logprobs[i] if best.logprobs else None, best.finish if i == last else None)
            for i, token in enumerate(best.history.output)
        ]
