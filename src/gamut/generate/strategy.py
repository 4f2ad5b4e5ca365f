"""The strategy of one sequence: greedy choice or `n` samples here, beam search next door, chosen by `strategy_for`.

Shapes: R rows of one sequence (its samples that still run), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import OptionError
from ..types import FinishReason, SamplingParams, TokenLogprob
from .beam import BeamSearch
from .history import Emitted, History, Hypothesis, Limits, Step, StopCondition, Strategy, finish_reason
from .sampler import apply_filters, build_filters, generator_for, reject, sample, token_logprob

__all__ = ["Emitted", "History", "Hypothesis", "Limits", "Sampling", "Step", "StopCondition", "Strategy", "strategy_for"]


def strategy_for(
    params: SamplingParams,
    limits: Limits,
    prompt_ids: Sequence[int],
    stop_factory: Callable[[], StopCondition] | None = None,
) -> Strategy:
    """The strategy that `params` asks for, at its start.

    Args:
        params: resolved; a field that is None is off. `max_new_tokens` and `stop` come as the other arguments.
        limits: what ends the sequence.
        prompt_ids: what the model has read; for an encoder-decoder, what the decoder starts with.
        stop_factory: makes a fresh stop condition for each row; None where only the limits end it.

    Raises:
        OptionError: for options that do not go together.
    """
    if (params.num_beams or 1) > 1:
        return BeamSearch(params, limits, prompt_ids, stop_factory)
    return Sampling(params, limits, prompt_ids, stop_factory)


@dataclass(slots=True)
class _Sample:
    """One row's state."""

    index: int
    history: History
    generator: torch.Generator
    stop: StopCondition | None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None


class Sampling:
    """Independent samples of one prompt; at temperature 0 the one greedy continuation.

    Each sample draws from a generator of its own, so its tokens depend on its seed and its logits alone.

    Raises:
        OptionError: for several return sequences at temperature 0, or a `logit_bias` out of range.
    """

    def __init__(
        self,
        params: SamplingParams,
        limits: Limits,
        prompt_ids: Sequence[int],
        stop_factory: Callable[[], StopCondition] | None = None,
    ) -> None:
        self._greedy = not params.temperature
        self._count = params.num_return_sequences or 1
        if self._greedy and self._count > 1:
            raise OptionError(
                f"num_return_sequences must be 1 at temperature 0, where all {self._count} would be equal; "
                f"set temperature above 0, or num_beams to at least {self._count}"
            )
        self._limits = limits
        self._top = params.logprobs
        self._filters = build_filters(params, limits)
        self._samples = [
            _Sample(
                index=index,
                history=History(tuple(prompt_ids)),
                generator=generator_for(params.seed, index),
                stop=stop_factory() if stop_factory else None,
            )
            for index in range(self._count)
        ]
        self._started = False

    @property
    def width(self) -> int:
        return self._count

    @property
    def done(self) -> bool:
        return all(each.finish for each in self._samples)

    def advance(self, logits_RV: Tensor) -> Step:
        running = [each for each in self._samples if each.finish is None]
        # After the prefill there is one row, and every sample goes on from it.
        sources = list(range(len(running))) if self._started else [0] * len(running)
        rows = [each.history for each in (running if self._started else running[:1])]
        self._started = True

        filtered_RV = apply_filters(self._filters, logits_RV, rows)
        # NaN counts as the best. Filters can hide one among the logits that they forbid, so those are looked at too.
        best_R, best_id_R = filtered_RV.max(-1)
        if not best_R.isfinite().all() or (self._filters and not logits_RV.amax(-1).isfinite().all()):
            reject(logits_RV, self._filters, rows)

        emitted, parents, tokens = [], [], []
        for source, each in zip(sources, running, strict=True):
            token = int(best_id_R[source]) if self._greedy else sample(filtered_RV[source], each.generator)
            each.history.output.append(token)
            each.finish = finish_reason(token, len(each.history.output), self._limits, each.stop)
            logprob = None
            if self._top is not None:
                logprob = token_logprob(token, logits_RV[source], filtered_RV[source], self._top)
                each.logprobs.append(logprob)
            emitted.append(Emitted(each.index, token, logprob, each.finish))
            if each.finish is None:
                parents.append(source)
                tokens.append(token)
        return Step(parents, tokens, emitted)

    def results(self) -> list[Hypothesis]:
        return [
            Hypothesis(
                ids=tuple(each.history.output),
                finish_reason=each.finish or "cancelled",
                logprobs=None if self._top is None else tuple(each.logprobs),
                score=None,
            )
            for each in self._samples
        ]
