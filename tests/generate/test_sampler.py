"""What the filters let through, what the choice draws, and what both refuse."""

from __future__ import annotations

from dataclasses import fields
from math import inf, log

import pytest
import torch

from gamut.errors import GamutError, OptionError
from gamut.generate import sampler
from gamut.generate.history import History, Limits
from gamut.types import SamplingParams

EVERYTHING = SamplingParams(
    min_new_tokens=1,
    logit_bias={1: 1.0},
    repetition_penalty=1.1,
    frequency_penalty=0.1,
    presence_penalty=0.1,
    no_repeat_ngram_size=2,
    temperature=0.5,
    top_k=2,
    top_p=0.9,
    min_p=0.1,
    typical_p=0.9,
    num_beams=2,
)
ALL_LIMITS = Limits(
    max_new_tokens=4,
    eos_ids=(0,),
    forced_bos_id=1,
    forced_eos_ids=(0,),
    suppress=(2,),
    begin_suppress=(3,),
    bad_words=((4,),),
    renormalize=True,
)


def test_without_options_no_filter_is_built():
    assert sampler.build_filters(SamplingParams(), Limits(max_new_tokens=4, eos_ids=(0,), renormalize=True)) == ()


def test_values_that_mean_off_build_no_filter():
    off = SamplingParams(
        min_new_tokens=0, logit_bias={}, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0,
        no_repeat_ngram_size=0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0,
    )  # fmt: skip
    assert sampler.build_filters(off, Limits(max_new_tokens=4, eos_ids=(0,))) == ()


def test_filters_act_in_the_documented_order():
    names = [each.name for each in sampler.build_filters(EVERYTHING, ALL_LIMITS)]
    assert names == [
        "logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram_size", "bad_words",
        "min_new_tokens", "forced_bos_id", "forced_eos_ids", "suppress", "begin_suppress",
        "temperature", "top_k", "top_p", "min_p", "typical_p", "renormalize",
    ]  # fmt: skip
    declared = [field.name for field in fields(SamplingParams)]
    of_params = [name for name in names if name in declared and name != "min_new_tokens"]
    assert of_params == declared[declared.index("logit_bias") : declared.index("typical_p") + 1]


def test_greedy_choice_leaves_the_truncations_out():
    names = [each.name for each in sampler.build_filters(SamplingParams(temperature=0.0, top_k=2, typical_p=0.5), ALL_LIMITS)]
    assert not {"temperature", "top_k", "typical_p", "renormalize"} & set(names)


@pytest.mark.parametrize("truncation", [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}])
@pytest.mark.parametrize(("beams", "eos_ids", "kept"), [(1, (0, 1), 1), (2, (0, 1), 3), (2, (0,), 2), (2, (), 2)])
def test_truncations_leave_a_beam_one_token_more_than_can_end_it(truncation, beams, eos_ids, kept):
    filters = sampler.build_filters(SamplingParams(temperature=1.0, num_beams=beams, **truncation), Limits(9, eos_ids))
    logits_RV = sampler.apply_filters(filters, torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]]), [History((0,))])
    assert logits_RV.isfinite().sum() == kept


def test_frequency_and_presence_penalties_count_the_output_alone():
    logits_RV = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    rows = [History(prompt=(3, 3), output=[0, 1, 0])]
    # OpenAI: logit - count * frequency_penalty - (count > 0) * presence_penalty
    frequency_RV = sampler.frequency_penalty(logits_RV, rows, penalty=0.25)
    assert frequency_RV.tolist() == [[0.5, 0.75, 1.0, 1.0]]
    assert sampler.presence_penalty(frequency_RV, rows, penalty=0.5).tolist() == [[0.0, 0.25, 1.0, 1.0]]


def test_a_negative_presence_penalty_favours_what_came_before():
    rows = [History(prompt=(), output=[1])]
    assert sampler.presence_penalty(torch.zeros(1, 2), rows, penalty=-1.0).tolist() == [[0.0, 1.0]]


def test_rows_are_filtered_by_their_own_histories():
    rows = [History((0,)), History((1,))]
    assert sampler.repetition_penalty(torch.full((2, 2), 4.0), rows, penalty=2.0).tolist() == [[2.0, 4.0], [4.0, 2.0]]


def test_begin_suppress_waits_for_a_forced_first_token():
    def suppressed(prompt: tuple[int, ...], output: list[int]) -> bool:
        limits = Limits(max_new_tokens=9, forced_bos_id=1, begin_suppress=(2,))
        filters = sampler.build_filters(SamplingParams(), limits)
        free = [each for each in filters if each.name == "begin_suppress"]
        return sampler.apply_filters(free, torch.zeros(1, 3), [History(prompt, output)])[0, 2] == -inf

    assert [suppressed((0,), []), suppressed((0,), [1]), suppressed((0,), [1, 1])] == [False, True, False]
    assert [suppressed((0, 0), []), suppressed((0, 0), [1])] == [True, False]


def test_a_bias_outside_the_vocabulary_is_refused_with_the_numbers():
    (bias,) = sampler.build_filters(SamplingParams(logit_bias={1: 1.0, 9: 1.0, 7: 1.0}), ALL_LIMITS)[:1]
    with pytest.raises(OptionError, match=r"ids \[7, 9\].*ends at 4.*own tokenizer"):
        bias(torch.zeros(1, 5), [History((0,))])


def test_limits_refuse_what_cannot_be():
    with pytest.raises(OptionError, match="max_new_tokens must be at least 1, got 0"):
        Limits(max_new_tokens=0)
    with pytest.raises(OptionError, match=r"0 or more, got \[-2, -1\]"):
        Limits(max_new_tokens=1, eos_ids=(-1,), bad_words=((3, -2),))
    with pytest.raises(OptionError, match="at least one token id"):
        Limits(max_new_tokens=1, bad_words=((),))


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.5, [0]), (0.51, [0, 1]), (0.79, [0, 1]), (0.94, [0, 1, 2]), (0.96, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass(mass, kept):
    logits_RV = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert sampler.top_p(logits_RV, mass)[0].isfinite().nonzero().flatten().tolist() == kept


def test_top_p_over_a_large_vocabulary_sorts_nothing_where_the_head_settles_it(monkeypatch):
    logits_RV = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0)) * 4
    monkeypatch.setattr(torch.Tensor, "sort", lambda *_: pytest.fail("the whole vocabulary was sorted"))
    kept_RV = sampler.top_p(logits_RV, 0.8).isfinite()
    mass_R = logits_RV.softmax(-1).masked_fill(~kept_RV, 0).sum(-1)
    assert (mass_R >= 0.8).all()
    least_R = logits_RV.softmax(-1).masked_fill(~kept_RV, inf).amin(-1)
    assert (mass_R - least_R < 0.8).all()


def test_samples_follow_the_distribution():
    probs_V = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0])
    generator = sampler.generator_for(0, 0)
    draws = 4000
    counts_V = torch.tensor([sampler.sample(probs_V.log(), generator) for _ in range(draws)]).bincount(minlength=5)
    assert counts_V[1] == counts_V[4] == 0
    # Five standard deviations of a binomial count.
    assert ((counts_V / draws - probs_V).abs() <= 5 * (probs_V * (1 - probs_V) / draws).sqrt()).all()


def test_sampling_neither_reads_nor_moves_the_global_generator():
    logits_V = torch.zeros(100)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [sampler.sample(logits_V, sampler.generator_for(5, 0)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert first[0] == first[1]


def test_generators_differ_by_seed_and_by_row():
    def stream(seed: int | None, row: int) -> tuple[float, ...]:
        return tuple(torch.rand(3, generator=sampler.generator_for(seed, row)).tolist())

    assert stream(7, 1) == stream(7, 1)
    assert len({stream(seed, row) for seed in range(4) for row in range(4)}) == 16
    assert stream(None, 0) != stream(None, 0)


def test_log_probabilities_of_both_distributions():
    raw_V = torch.tensor([0.5, 0.25, 0.25]).log() + 3
    filtered_V = raw_V.masked_fill(torch.tensor([False, False, True]), -inf)
    found = sampler.token_logprob(1, raw_V, filtered_V, top=3)
    assert (found.id, found.raw, found.filtered) == (1, pytest.approx(log(1 / 4)), pytest.approx(log(1 / 3)))
    assert next(token for token, _ in found.top_raw) == 0
    assert len(found.top_raw) == 3
    assert [token for token, _ in found.top_filtered] == [0, 1]
    assert [value for _, value in found.top_filtered] == pytest.approx([log(2 / 3), log(1 / 3)])
    assert sampler.token_logprob(1, raw_V, filtered_V, top=0).top_raw == ()
    assert len(sampler.token_logprob(1, raw_V, filtered_V, top=9).top_raw) == 3


def test_a_refusal_names_the_filter_that_left_nothing():
    limits = Limits(max_new_tokens=4, suppress=(0, 1))
    filters = sampler.build_filters(SamplingParams(repetition_penalty=2.0), limits)
    with pytest.raises(
        GamutError, match=r"suppress left no token to choose for generated token 3.*repetition_penalty, suppress"
    ):
        sampler.reject(torch.zeros(1, 2), filters, [History((0,), [1, 1])])


def test_a_refusal_names_the_filter_that_overflowed():
    filters = sampler.build_filters(SamplingParams(temperature=1e-40), ALL_LIMITS)[-1:]
    with pytest.raises(GamutError, match="temperature made the logits for generated token 1 infinite"):
        sampler.reject(torch.tensor([[9.0, 0.0]]), filters, [History((0,))])
