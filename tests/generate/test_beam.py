"""Beam search against the definition of what it looks for, and at its edges. Parity with transformers is tested apart."""

from __future__ import annotations

from itertools import product
from math import inf, nan

import pytest
import torch
from torch import Tensor

from gamut.errors import GamutError, OptionError
from gamut.generate.strategy import Hypothesis, Limits, Strategy, strategy_for
from gamut.types import SamplingParams as P

VOCABULARY = 5
EOS = 0
TABLE_VV = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2
"""A model that looks at the last token alone."""


def table(rows: list[list[int]]) -> Tensor:
    return TABLE_VV[[row[-1] for row in rows]]


def run(strategy: Strategy, prompt: tuple[int, ...] = (1,), model=table) -> list[Hypothesis]:
    rows = [list(prompt)]
    while not strategy.done:
        step = strategy.advance(model(rows))
        rows = [[*rows[parent], token] for parent, token in zip(step.parents, step.tokens, strict=True)]
    return strategy.results()


def log_prob(ids: tuple[int, ...], start: int = 1) -> float:
    log_probs_VV = TABLE_VV.log_softmax(-1)
    return float(sum(log_probs_VV[last, token] for last, token in zip((start, *ids), ids, strict=False)))


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0])
def test_beams_wide_enough_find_the_best_of_all_sequences(length_penalty):
    longest = 3
    tokens = range(VOCABULARY)
    complete = {
        ids[: ids.index(EOS) + 1] if EOS in ids else ids for ids in product(tokens, repeat=longest)
    }  # every sequence that ends with the end-of-sequence token or at the limit
    score = {ids: log_prob(ids) / len(ids) ** length_penalty for ids in complete}
    best = sorted(score, key=score.__getitem__, reverse=True)[:6]
    params = P(num_beams=100, num_return_sequences=6, length_penalty=length_penalty, early_stopping="never")
    found = run(strategy_for(params, Limits(longest, eos_ids=(EOS,)), (1,)))
    assert [each.ids for each in found] == best
    assert [each.score for each in found] == pytest.approx([score[ids] for ids in best])
    assert [each.finish_reason for each in found] == ["stop" if ids[-1] == EOS else "length" for ids in best]


@pytest.mark.parametrize(("early_stopping", "best"), [(True, (3, EOS)), (False, (3, EOS)), ("never", (2,) * 20)])
def test_only_never_waits_for_a_length_that_makes_up_for_a_bad_start(early_stopping, best):
    # The hypotheses (0,) and (3, 0) score ln .45 = -.80 and ln .45 / 2 = -.40. The beam of 2s is certain from its second
    # token on: it stands at ln .1 / 2 = -1.15 then, which could not better -.80, and at ln .1 / 20 = -.12 in the end.
    probs_VV = torch.eye(4)
    probs_VV[1] = torch.tensor([0.45, 0.0, 0.1, 0.45])
    probs_VV[3] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    strategy = strategy_for(P(num_beams=2, early_stopping=early_stopping), Limits(20, eos_ids=(EOS,)), (1,))
    (found,) = run(strategy, model=lambda rows: probs_VV[[row[-1] for row in rows]].log())
    assert found.ids == best


def test_nothing_is_emitted_before_the_end_and_then_the_best():
    strategy = strategy_for(P(num_beams=3, num_return_sequences=2, logprobs=1), Limits(4, eos_ids=(EOS,)), (1,))
    rows, emitted = [[1]], []
    while not strategy.done:
        assert emitted == []
        step = strategy.advance(table(rows))
        assert len(step.parents) <= strategy.width == 3
        rows = [[*rows[parent], token] for parent, token in zip(step.parents, step.tokens, strict=True)]
        emitted = step.emitted
    best, _ = strategy.results()
    assert tuple(each.id for each in emitted) == best.ids
    assert tuple(each.logprob for each in emitted) == best.logprobs
    assert [each.finish_reason for each in emitted] == [None] * (len(best.ids) - 1) + [best.finish_reason]


def test_the_log_probabilities_of_a_hypothesis_add_up_to_its_score():
    params = P(num_beams=4, num_return_sequences=4, length_penalty=0.0, logprobs=1)
    for each in run(strategy_for(params, Limits(5, eos_ids=(EOS,)), (1,))):
        assert each.logprobs is not None
        assert [one.id for one in each.logprobs] == list(each.ids)
        assert sum(one.raw for one in each.logprobs) == pytest.approx(each.score)
        assert each.score == pytest.approx(log_prob(each.ids))


def test_a_stop_condition_ends_hypotheses_by_their_own_ids():
    def after_3():
        seen: list[int] = []
        return lambda token: seen.append(token) or (seen[-2:] == [3, token] and len(seen) > 1)

    params = P(num_beams=4, num_return_sequences=4, early_stopping=True, length_penalty=0.0)
    found = run(strategy_for(params, Limits(6), (1,), after_3))
    for each in found:
        ends_so = len(each.ids) > 1 and each.ids[-2] == 3
        assert each.finish_reason == ("stop" if ends_so else "length")
        assert 3 not in each.ids[:-2]
    assert "stop" in {each.finish_reason for each in found}


def test_beam_sampling_follows_its_seed():
    def found(seed: int) -> list[Hypothesis]:
        params = P(num_beams=3, num_return_sequences=3, temperature=1.5, seed=seed)
        return run(strategy_for(params, Limits(6, eos_ids=(EOS,)), (1,)))

    assert found(0) == found(0)
    assert len({found(seed)[0].ids for seed in range(6)}) > 1


def test_beam_sampling_draws_only_what_the_filters_left():
    params = P(num_beams=3, temperature=1.0, seed=0, logit_bias={2: -inf, 4: -inf})
    for each in run(strategy_for(params, Limits(6), (1,))):
        assert not {2, 4} & set(each.ids)


def test_before_the_end_the_best_so_far_is_cancelled():
    strategy = strategy_for(P(num_beams=2), Limits(5), (1,))
    assert strategy.results() == []
    strategy.advance(table([[1]]))
    (best,) = strategy.results()
    assert (best.ids, best.finish_reason) == ((int(TABLE_VV[1].argmax()),), "cancelled")


def test_more_results_than_beams_are_refused():
    with pytest.raises(OptionError, match="at most num_beams, got 3 of 2; set num_beams to at least 3"):
        strategy_for(P(num_beams=2, num_return_sequences=3), Limits(5), (1,))


@pytest.mark.parametrize("length_penalty", [1000.0, -1000.0])
def test_a_length_penalty_that_overflows_is_refused(length_penalty):
    with pytest.raises(OptionError, match=r"length_penalty must keep .* finite.*with 5 tokens"):
        strategy_for(P(num_beams=2, length_penalty=length_penalty), Limits(5), (1,))


def test_beams_without_a_token_left_die_and_the_others_go_on():
    # After 2 only 2 could follow, which may not repeat; 3 and 4 lead on.
    follows_VV = torch.full((VOCABULARY, VOCABULARY), -inf)
    follows_VV[1] = torch.tensor([-inf, -inf, 2.0, 1.0, -inf])
    follows_VV[2, 2] = 0.0
    follows_VV[3, 4] = follows_VV[4, EOS] = 0.0
    strategy = strategy_for(P(num_beams=2, no_repeat_ngram_size=1), Limits(4, eos_ids=(EOS,)), (1,))
    (best,) = run(strategy, model=lambda rows: follows_VV[[row[-1] for row in rows]])
    assert (best.ids, best.finish_reason) == ((3, 4, EOS), "stop")


def test_fewer_hypotheses_than_asked_for_are_refused():
    strategy = strategy_for(P(num_beams=2, num_return_sequences=2), Limits(1, eos_ids=(EOS,), forced_eos_ids=(EOS,)), (1,))
    with pytest.raises(GamutError, match=r"with 1 of the 2 hypotheses.*lower num_return_sequences.*forced_eos_ids"):
        strategy.advance(table([[1]]))


def test_filters_that_leave_nothing_are_refused():
    strategy = strategy_for(P(num_beams=2), Limits(3, suppress=tuple(range(VOCABULARY))), (1,))
    with pytest.raises(GamutError, match="suppress left no token to choose for generated token 1"):
        strategy.advance(table([[1]]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("forced", [None, 1])
@pytest.mark.parametrize("bad", [nan, inf])
def test_logits_that_are_not_finite_are_refused(temperature, forced, bad):
    strategy = strategy_for(P(num_beams=2, temperature=temperature), Limits(3, forced_bos_id=forced), (1,))
    with pytest.raises(GamutError, match="the model's logits for generated token 1 hold NaN or infinity"):
        strategy.advance(torch.tensor([[0.0, bad, 1.0, 1.0, 1.0]]))


def test_scores_that_overflow_are_refused():
    strategy = strategy_for(P(num_beams=2, logit_bias=dict.fromkeys(range(VOCABULARY), -3e38)), Limits(3), (1,))
    step = strategy.advance(table([[1]]))
    with pytest.raises(GamutError, match="summed scores of all beams overflow at generated token 2"):
        strategy.advance(table([[token] for token in step.tokens]))
