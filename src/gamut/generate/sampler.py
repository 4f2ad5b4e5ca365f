"""From logits to one id: the filters in the order of `SamplingParams`, the choice, and the log-probabilities of both.

Every filter is a pure function that returns new logits. Ties and edge cases fall as in the logits processors of
`transformers`, against which they are tested.

Shapes: R rows of one sequence, V vocabulary, K the most probable tokens of a row, N tokens of a history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import NoReturn

import torch
from torch import Tensor

from ..errors import GamutError, OptionError
from ..types import SamplingParams, TokenLogprob
from .history import History, Limits

NUCLEUS_HEAD = 1024
"""Tokens that `top_p` looks at before it sorts the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One step from the model's logits to those that are chosen from."""

    name: str
    """The field of `SamplingParams` or `Limits` that asked for it."""
    apply: Callable[[Tensor, Sequence[History]], Tensor]

    def __call__(self, logits_RV: Tensor, rows: Sequence[History]) -> Tensor:
        return self.apply(logits_RV, rows)


def build_filters(params: SamplingParams, limits: Limits) -> tuple[Filter, ...]:
    """The filters that are on, in the order in which they act.

    At temperature 0 those from `temperature` on are left out: what is chosen then is the best of the penalised logits.
    """
    beams = (params.num_beams or 1) > 1
    filters = _penalties(params, limits)
    if params.temperature:
        # A beam needs one token that goes on besides those that end it.
        filters += _truncations(params, least=max(2, len(limits.eos_ids) + 1) if beams else 1)
    if limits.renormalize and beams:
        filters.append(Filter("renormalize", lambda logits_RV, _: logits_RV.log_softmax(-1)))
    return tuple(filters)


def apply_filters(filters: Iterable[Filter], logits_RV: Tensor, rows: Sequence[History]) -> Tensor:
    """The logits after all of `filters`; `logits_RV` itself is left as it is."""
    for each in filters:
        logits_RV = each(logits_RV, rows)
    return logits_RV


def _penalties(params: SamplingParams, limits: Limits) -> list[Filter]:
    found = []
    if params.logit_bias:
        found.append(Filter("logit_bias", partial(logit_bias, bias=dict(params.logit_bias))))
    if params.repetition_penalty not in (None, 1):
        found.append(Filter("repetition_penalty", partial(repetition_penalty, penalty=params.repetition_penalty)))
    if params.frequency_penalty:
        found.append(Filter("frequency_penalty", partial(frequency_penalty, penalty=params.frequency_penalty)))
    if params.presence_penalty:
        found.append(Filter("presence_penalty", partial(presence_penalty, penalty=params.presence_penalty)))
    if params.no_repeat_ngram_size:
        found.append(Filter("no_repeat_ngram_size", partial(no_repeat_ngram, size=params.no_repeat_ngram_size)))
    words = tuple(word for word in limits.bad_words if len(word) > 1 or word[0] not in limits.eos_ids)
    if words:
        found.append(Filter("bad_words", partial(bad_words, words=words)))
    if params.min_new_tokens and limits.eos_ids:
        found.append(Filter("min_new_tokens", partial(min_new_tokens, least=params.min_new_tokens, eos_ids=limits.eos_ids)))
    if limits.forced_bos_id is not None:
        found.append(Filter("forced_bos_id", partial(forced_bos, token=limits.forced_bos_id)))
    if limits.forced_eos_ids:
        last = limits.max_new_tokens - 1
        found.append(Filter("forced_eos_ids", partial(forced_eos, last=last, tokens=limits.forced_eos_ids)))
    if limits.suppress:
        found.append(Filter("suppress", lambda logits_RV, _: forbid(logits_RV, limits.suppress)))
    if limits.begin_suppress:
        forced = limits.forced_bos_id is not None
        found.append(Filter("begin_suppress", partial(begin_suppress, tokens=limits.begin_suppress, after_forced=forced)))
    return found


def _truncations(params: SamplingParams, least: int) -> list[Filter]:
    found = []
    if params.temperature not in (None, 1):
        temperature = params.temperature
        found.append(Filter("temperature", lambda logits_RV, _: logits_RV / temperature))
    if params.top_k:
        size = params.top_k
        found.append(Filter("top_k", lambda logits_RV, _: top_k(logits_RV, size, least)))
    if params.top_p is not None and params.top_p < 1:
        mass = params.top_p
        found.append(Filter("top_p", lambda logits_RV, _: top_p(logits_RV, mass, least)))
    if params.min_p:
        share = params.min_p
        found.append(Filter("min_p", lambda logits_RV, _: min_p(logits_RV, share, least)))
    if params.typical_p is not None and params.typical_p < 1:
        typical = params.typical_p
        found.append(Filter("typical_p", lambda logits_RV, _: typical_p(logits_RV, typical, least)))
    return found


# --- penalties: they look at what the row has read --------------------------------------------------------------------


def logit_bias(logits_RV: Tensor, _: Sequence[History], *, bias: Mapping[int, float]) -> Tensor:
    """Add a constant to the logits of some ids.

    Raises:
        OptionError: for an id outside the vocabulary.
    """
    vocabulary = logits_RV.shape[-1]
    outside = sorted(token for token in bias if token >= vocabulary)
    if outside:
        raise OptionError(
            f"logit_bias has ids {outside}, but this model's vocabulary ends at {vocabulary - 1}; "
            "take the ids from this model's own tokenizer"
        )
    biased_RV = logits_RV.clone()
    biased_RV[:, list(bias)] += logits_RV.new_tensor(list(bias.values()))
    return biased_RV


def repetition_penalty(logits_RV: Tensor, rows: Sequence[History], *, penalty: float) -> Tensor:
    """Divide the positive, multiply the negative logits of tokens in prompt or output, once each (Keskar 2019, section 4.1)."""
    penalised_RV = logits_RV.clone()
    for logits_V, row in zip(penalised_RV, rows, strict=True):
        seen_N = _within(row.ids, logits_V)
        seen_logits_N = logits_V[seen_N]
        # Assigning, where a token that occurs twice is written twice, applies the penalty once.
        logits_V[seen_N] = torch.where(seen_logits_N < 0, seen_logits_N * penalty, seen_logits_N / penalty)
    return penalised_RV


def frequency_penalty(logits_RV: Tensor, rows: Sequence[History], *, penalty: float) -> Tensor:
    """Subtract `penalty` for every time that the output holds a token (OpenAI API reference, `frequency_penalty`)."""
    penalised_RV = logits_RV.clone()
    for logits_V, row in zip(penalised_RV, rows, strict=True):
        logits_V -= penalty * _within(row.output, logits_V).bincount(minlength=len(logits_V))
    return penalised_RV


def presence_penalty(logits_RV: Tensor, rows: Sequence[History], *, penalty: float) -> Tensor:
    """Subtract `penalty` from every token that the output holds (OpenAI API reference, `presence_penalty`)."""
    penalised_RV = logits_RV.clone()
    for logits_V, row in zip(penalised_RV, rows, strict=True):
        # Not accumulating: a token that occurs twice is still penalised once.
        logits_V[_within(row.output, logits_V)] -= penalty
    return penalised_RV


def no_repeat_ngram(logits_RV: Tensor, rows: Sequence[History], *, size: int) -> Tensor:
    """Forbid the tokens that would end an n-gram which prompt and output already hold (Paulus 2017, section 2.5)."""
    kept_RV = logits_RV.clone()
    for logits_V, row in zip(kept_RV, rows, strict=True):
        if len(row) < size:
            continue
        ids_N = torch.tensor(row.ids, device=logits_V.device)
        windows = ids_N.unfold(0, size, 1)
        begun = (windows[:, :-1] == ids_N[len(row) + 1 - size :]).all(-1)
        logits_V[_within(windows[begun, -1].tolist(), logits_V)] = -inf
    return kept_RV


def bad_words(logits_RV: Tensor, rows: Sequence[History], *, words: Sequence[tuple[int, ...]]) -> Tensor:
    """Forbid the last id of every word whose other ids the row ends with."""
    kept_RV = logits_RV.clone()
    for logits_V, row in zip(kept_RV, rows, strict=True):
        ids = row.ids
        complete = [
            word[-1] for word in words if len(word) <= len(ids) + 1 and tuple(ids[len(ids) + 1 - len(word) :]) == word[:-1]
        ]
        logits_V[_within(complete, logits_V)] = -inf
    return kept_RV


def min_new_tokens(logits_RV: Tensor, rows: Sequence[History], *, least: int, eos_ids: Collection[int]) -> Tensor:
    """Forbid the end-of-sequence tokens until `least` tokens are out."""
    return forbid(logits_RV, eos_ids, [len(row.output) < least for row in rows])


def forced_bos(logits_RV: Tensor, rows: Sequence[History], *, token: int) -> Tensor:
    """Leave only `token` after a prompt of one id; a longer decoder prompt already holds its own."""
    return force(logits_RV, (token,), [len(row) == 1 for row in rows])


def forced_eos(logits_RV: Tensor, rows: Sequence[History], *, last: int, tokens: Collection[int]) -> Tensor:
    """Leave only `tokens` where `last` tokens are out."""
    return force(logits_RV, tokens, [len(row.output) == last for row in rows])


def begin_suppress(logits_RV: Tensor, rows: Sequence[History], *, tokens: Collection[int], after_forced: bool) -> Tensor:
    """Forbid `tokens` at the first place that is free; a forced token takes the one after a prompt of one id."""
    return forbid(logits_RV, tokens, [len(row.output) == (after_forced and len(row.prompt) == 1) for row in rows])


def forbid(logits_RV: Tensor, tokens: Collection[int], where: Sequence[bool] | None = None) -> Tensor:
    """Set the logits of `tokens` to -inf, in the rows `where` it is true (all, by default)."""
    if where is not None and not any(where):
        return logits_RV
    column_mask_V = torch.zeros_like(logits_RV[0], dtype=torch.bool)
    column_mask_V[_within(tokens, column_mask_V)] = True
    rows = [True] * len(logits_RV) if where is None else list(where)
    return logits_RV.masked_fill(torch.tensor(rows, device=logits_RV.device)[:, None] & column_mask_V, -inf)


def force(logits_RV: Tensor, tokens: Collection[int], where: Sequence[bool]) -> Tensor:
    """Set the logits of `tokens` to 0 and all others to -inf, in the rows `where` it is true."""
    if not any(where):
        return logits_RV
    forced_V = torch.full_like(logits_RV[0], -inf)
    forced_V[_within(tokens, forced_V)] = 0
    return torch.where(torch.tensor(list(where), device=logits_RV.device)[:, None], forced_V, logits_RV)


def _within(ids: Iterable[int], logits_V: Tensor) -> Tensor:
    """The ids as an index into `logits_V`; one that the model cannot produce (a prompt may hold it) is left out."""
    return torch.tensor([token for token in ids if token < len(logits_V)], dtype=torch.long, device=logits_V.device)


# --- truncations: they look at the distribution; each keeps at least `least` tokens -----------------------------------


def top_k(logits_RV: Tensor, size: int, least: int = 1) -> Tensor:
    """Keep the `size` best tokens, and those that tie with the last of them (Fan 2018, section 5.4)."""
    kept = min(max(size, least), logits_RV.shape[-1])
    lowest_R1 = logits_RV.topk(kept).values[:, -1:]
    return logits_RV.masked_fill(logits_RV < lowest_R1, -inf)


def top_p(logits_RV: Tensor, mass: float, least: int = 1) -> Tensor:
    """Keep the fewest tokens whose probability reaches `mass` (nucleus sampling, Holtzman 2020, section 3.1).

    The head of the distribution usually settles it. The whole vocabulary is sorted only where the head is too short, or
    where a tie or the rounding of a sum would decide.
    """
    if logits_RV.shape[-1] > NUCLEUS_HEAD:
        lowest_R1 = _nucleus_floor(logits_RV, mass, least)
        if lowest_R1 is not None:
            return logits_RV.masked_fill(logits_RV < lowest_R1, -inf)
    ascending_RV, order_RV = logits_RV.sort()
    # Adding up from the tail: a token goes while all up to it weigh no more than what may be lost.
    cut_RV = ascending_RV.softmax(-1).cumsum(-1) <= 1 - mass
    cut_RV[:, -least:] = False
    return logits_RV.masked_fill(cut_RV.scatter(-1, order_RV, cut_RV), -inf)


def _nucleus_floor(logits_RV: Tensor, mass: float, least: int) -> Tensor | None:
    """The lowest logit of each row's nucleus, found in its `NUCLEUS_HEAD` best tokens; None where they do not settle it."""
    slack = 1e-5  # far above the rounding of a float32 sum of probabilities
    head_RK = logits_RV.topk(NUCLEUS_HEAD).values
    probs_RK = (head_RK - logits_RV.logsumexp(-1, keepdim=True)).double().exp()
    above_RK = probs_RK.cumsum(-1) - probs_RK
    kept_R1 = (above_RK < mass).sum(-1, keepdim=True).clamp(min=least)
    if kept_R1.max() >= NUCLEUS_HEAD:
        return None
    lowest_R1 = head_RK.gather(-1, kept_R1 - 1)
    tied = lowest_R1 == head_RK.gather(-1, kept_R1)
    close = (above_RK - mass).abs() < slack
    # NaN compares false everywhere, so it must be asked for.
    return None if tied.any() or close.any() or above_RK.isnan().any() else lowest_R1


def min_p(logits_RV: Tensor, share: float, least: int = 1) -> Tensor:
    """Drop the tokens less probable than `share` times the most probable one (Nguyen 2024, section 3)."""
    probs_RV = logits_RV.softmax(-1)
    cut_RV = probs_RV < share * probs_RV.amax(-1, keepdim=True)
    best_RK = probs_RV.topk(min(least, probs_RV.shape[-1])).indices
    return logits_RV.masked_fill(cut_RV.scatter(-1, best_RK, False), -inf)


def typical_p(logits_RV: Tensor, mass: float, least: int = 1) -> Tensor:
    """Keep the tokens whose information is closest to the entropy, up to `mass` (Meister 2022, section 4)."""
    log_probs_RV = logits_RV.log_softmax(-1)
    # 0 log 0 is 0, but -inf times 0 is NaN: nansum leaves the forbidden tokens out.
    entropy_R1 = -(log_probs_RV * log_probs_RV.exp()).nansum(-1, keepdim=True)
    distance_RV, order_RV = (-log_probs_RV - entropy_R1).abs().sort()
    reached_RV = logits_RV.gather(-1, order_RV).softmax(-1).cumsum(-1)
    last_R1 = (reached_RV < mass).sum(-1, keepdim=True).clamp(max=logits_RV.shape[-1] - 1)
    cut_RV = distance_RV > distance_RV.gather(-1, last_R1)
    cut_RV[:, :least] = False
    return logits_RV.masked_fill(cut_RV.scatter(-1, order_RV, cut_RV), -inf)


# --- the choice -------------------------------------------------------------------------------------------------------


def generator_for(seed: int | None, row: int) -> torch.Generator:
    """The random generator of one row: the same for the same seed and row, unrelated for others; fresh without a seed."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    # Hashing keeps (seed, row) pairs apart, where seed + row would give row 1 of one seed to row 0 of the next.
    digest = hashlib.sha256(f"{seed}/{row}".encode()).digest()
    return generator.manual_seed(int.from_bytes(digest[:7], "big"))


def sample(logits_V: Tensor, generator: torch.Generator) -> int:
    """Draw an id with probability softmax(logits), by inverting the cumulative distribution at one uniform number.

    The number is drawn on the generator's device, so a seed gives the same tokens wherever the logits live, and the cost
    is a fifth of torch.multinomial's, which draws V numbers.
    """
    cumulative_V = logits_V.double().softmax(-1).cumsum(-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64).to(logits_V.device)
    # The first token whose cumulative exceeds the number: never one of probability 0, which adds nothing.
    return int(torch.searchsorted(cumulative_V, uniform * cumulative_V[-1], right=True))


def reject(logits_RV: Tensor, filters: Sequence[Filter], rows: Sequence[History]) -> NoReturn:
    """Say why these logits (or log-probabilities), or what the filters made of them, allow no choice.

    Raises:
        GamutError: always.
    """
    where = f"generated token {len(rows[0].output) + 1}"
    if not logits_RV.amax(-1).isfinite().all():
        raise GamutError(
            f"the model's logits for {where} hold NaN or infinity where finite numbers were expected; "
            "load the model in float32, and check its weights"
        )
    for each in filters:
        logits_RV = each(logits_RV, rows)
        best_R = logits_RV.amax(-1)
        if (best_R == -inf).any():
            raise GamutError(
                f"{each.name} left no token to choose for {where}; loosen it or another of the filters that are on "
                f"({names(filters)}), or end sooner with a smaller max_new_tokens"
            )
        if not best_R.isfinite().all():
            raise GamutError(f"{each.name} made the logits for {where} infinite; set it to a less extreme value")
    raise GamutError(
        f"the summed scores of all beams overflow at {where}; take smaller logit_bias values, or -inf to forbid a token"
    )


def names(filters: Sequence[Filter]) -> str:
    """The names of the filters, for a message."""
    return ", ".join(each.name for each in filters) or "none"


def token_logprob(token: int, raw_V: Tensor, filtered_V: Tensor, top: int) -> TokenLogprob:
    """Log-probabilities of `token` before and after the filters, with the `top` best of each; the forbidden are left out."""
    raw_log_V, filtered_log_V = raw_V.log_softmax(-1), filtered_V.log_softmax(-1)
    return TokenLogprob(
        id=token,
        raw=float(raw_log_V[token]),
        filtered=float(filtered_log_V[token]),
        top_raw=_best(raw_log_V, top),
        top_filtered=_best(filtered_log_V, top),
    )


def _best(log_probs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    values, ids = log_probs_V.topk(min(count, len(log_probs_V)))
    return tuple((token, value) for token, value in zip(ids.tolist(), values.tolist(), strict=True) if value != -inf)
