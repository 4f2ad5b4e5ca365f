"""One sequence from its first logits to its results: rows, ends, seeds, log-probabilities and refusals."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import pytest
import torch
from torch import Tensor

from gamut.errors import GamutError, OptionError
from gamut.generate.beam import BeamSearch
from gamut.generate.strategy import Emitted, Sampling, Step, Strategy, strategy_for
from gamut.generate.strategy import Limits as L
from gamut.types import SamplingParams as P

TABLE_VV = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
"""A model that looks at the last token alone."""


def run(strategy: Strategy, prompt: tuple[int, ...], model: Callable[[list[list[int]]], Tensor]) -> list[Step]:
    rows, steps = [list(prompt)], []
    while not strategy.done:
        steps.append(strategy.advance(model(rows)))
        rows = [[*rows[parent], token] for parent, token in zip(steps[-1].parents, steps[-1].tokens, strict=True)]
    return steps


def table(rows: list[list[int]]) -> Tensor:
    return TABLE_VV[[row[-1] for row in rows]]


def counting(rows: list[list[int]]) -> Tensor:
    """Logits that make every row count upwards."""
    return torch.nn.functional.one_hot(torch.tensor([(row[-1] + 1) % 8 for row in rows]), 8).float()


def test_the_kind_follows_from_the_number_of_beams():
    assert isinstance(strategy_for(P(num_beams=2), L(4), (0,)), BeamSearch)
    assert isinstance(strategy_for(P(num_beams=1), L(4), (0,)), Sampling)
    assert strategy_for(P(num_return_sequences=3, temperature=1.0), L(4), (0,)).width == 3


def test_greedy_choice_ends_at_the_limit():
    strategy = strategy_for(P(), L(3), (0,))
    steps = run(strategy, (0,), counting)
    assert [(step.parents, step.tokens) for step in steps] == [([0], [1]), ([0], [2]), ([], [])]
    assert [step.emitted for step in steps] == [
        [Emitted(0, 1, None, None)],
        [Emitted(0, 2, None, None)],
        [Emitted(0, 3, None, "length")],
    ]
    (result,) = strategy.results()
    assert (result.ids, result.finish_reason, result.logprobs, result.score) == ((1, 2, 3), "length", None, None)


def test_an_end_of_sequence_token_is_kept_and_ends_the_row_even_at_the_limit():
    strategy = strategy_for(P(), L(2, eos_ids=(5, 2)), (0,))
    run(strategy, (0,), counting)
    assert [(each.ids, each.finish_reason) for each in strategy.results()] == [((1, 2), "stop")]


def test_a_stop_condition_reads_each_token_once_and_ends_the_row():
    read: list[int] = []

    def stop(token: int) -> bool:
        read.append(token)
        return read[-2:] == [2, 3]

    strategy = strategy_for(P(), L(9), (0,), lambda: stop)
    run(strategy, (0,), counting)
    assert read == [1, 2, 3]
    assert [(each.ids, each.finish_reason) for each in strategy.results()] == [((1, 2, 3), "stop")]


def test_min_new_tokens_holds_the_end_back():
    ends = torch.tensor([[0.0, 5.0, 1.0]])
    strategy = strategy_for(P(min_new_tokens=2), L(9, eos_ids=(1,)), (0,))
    run(strategy, (0,), lambda rows: ends.expand(len(rows), -1))
    assert strategy.results()[0].ids == (2, 2, 1)


def test_samples_that_end_leave_and_the_others_keep_their_rows():
    strategy = strategy_for(P(num_return_sequences=5, temperature=1.0, seed=1), L(12, eos_ids=(0, 1)), (3,))
    tails: list[list[int]] = [[] for _ in range(5)]
    running = [0]
    rows = [[3]]
    while not strategy.done:
        step = strategy.advance(table(rows))
        if running == [0]:
            assert step.parents == [0] * len(step.parents)
        else:
            # A row's parent is where its sample stood: dropped rows close the gap.
            assert step.parents == [running.index(each.sample) for each in step.emitted if each.finish_reason is None]
        for each in step.emitted:
            tails[each.sample].append(each.id)
        assert step.tokens == [each.id for each in step.emitted if each.finish_reason is None]
        running = [each.sample for each in step.emitted if each.finish_reason is None]
        rows = [[*rows[parent], token] for parent, token in zip(step.parents, step.tokens, strict=True)]
        assert rows == [[3, *tails[sample]] for sample in running]
    results = strategy.results()
    assert [list(each.ids) for each in results] == tails
    assert len({len(each.ids) for each in results}) > 1, "the samples must end at different steps for this test to tell"
    for each in results:
        assert each.finish_reason == ("stop" if each.ids[-1] in (0, 1) else "length")


def test_a_seed_gives_the_same_samples_and_each_one_of_its_own():
    def samples(seed: int | None, count: int) -> list[tuple[int, ...]]:
        strategy = strategy_for(P(num_return_sequences=count, temperature=1.0, seed=seed), L(20), (3,))
        run(strategy, (3,), table)
        return [each.ids for each in strategy.results()]

    assert samples(4, 3) == samples(4, 3)
    assert samples(4, 3)[:1] == samples(4, 1), "a sample depends on how many others there are"
    assert len(set(samples(4, 3))) == 3
    assert samples(4, 1) != samples(5, 1)
    assert samples(None, 1) != samples(None, 1)


def test_each_sample_has_a_stop_condition_of_its_own():
    def after_three():
        seen: list[int] = []
        return lambda token: seen.append(token) or len(seen) == 3

    strategy = strategy_for(P(num_return_sequences=4, temperature=1.0, seed=0), L(9), (3,), after_three)
    run(strategy, (3,), table)
    assert [(len(each.ids), each.finish_reason) for each in strategy.results()] == [(3, "stop")] * 4


def test_log_probabilities_are_those_of_the_models_and_of_the_penalised_logits():
    strategy = strategy_for(P(logprobs=2, logit_bias={1: -inf}), L(3), (0,))
    steps = run(strategy, (0,), table)
    (result,) = strategy.results()
    assert result.logprobs is not None
    assert [each.emitted[0].logprob for each in steps] == list(result.logprobs)
    last = 0
    for token, each in zip(result.ids, result.logprobs, strict=True):
        raw_V = TABLE_VV[last].log_softmax(-1)
        without_1_V = TABLE_VV[last].masked_fill(torch.arange(8) == 1, -inf).log_softmax(-1)
        assert (each.id, each.raw, each.filtered) == (token, pytest.approx(raw_V[token]), pytest.approx(without_1_V[token]))
        assert [id for id, _ in each.top_raw] == raw_V.topk(2).indices.tolist()
        assert [id for id, _ in each.top_filtered] == without_1_V.topk(2).indices.tolist()
        last = token


def test_before_the_end_the_results_are_cancelled():
    strategy = strategy_for(P(), L(5), (0,))
    strategy.advance(counting([[0]]))
    assert [(each.ids, each.finish_reason) for each in strategy.results()] == [((1,), "cancelled")]


def test_several_greedy_results_are_refused():
    with pytest.raises(OptionError, match="all 3 would be equal; set temperature above 0, or num_beams to at least 3"):
        strategy_for(P(num_return_sequences=3), L(5), (0,))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("options", [{}, {"logit_bias": {2: -inf}}])
def test_logits_that_are_not_finite_are_refused(temperature, bad, options):
    # With the bias, the bad logit of token 2 is hidden (inf - inf is NaN): still the model's fault.
    strategy = strategy_for(P(temperature=temperature, **options), L(5), (0,))
    with pytest.raises(GamutError, match=r"the model's logits for generated token 1 hold NaN or infinity.*float32"):
        strategy.advance(torch.tensor([[0.0, 1.0, bad]]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_forced_token_does_not_hide_bad_logits(temperature):
    strategy = strategy_for(P(temperature=temperature), L(5, forced_bos_id=1), (0,))
    with pytest.raises(GamutError, match="the model's logits"):
        strategy.advance(torch.tensor([[0.0, 1.0, nan]]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_filters_that_leave_nothing_are_refused(temperature):
    strategy = strategy_for(P(temperature=temperature, no_repeat_ngram_size=1), L(9), (0,))
    rows = [[0]]
    for _ in range(2):
        rows = [[*rows[0], *strategy.advance(torch.zeros(1, 3)).tokens]]
    with pytest.raises(GamutError, match="no_repeat_ngram_size left no token to choose for generated token 3"):
        strategy.advance(torch.zeros(1, 3))
