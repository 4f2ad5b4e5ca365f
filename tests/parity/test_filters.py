"""The filters against the logits processors of transformers, bit for bit, ties and forbidden tokens included."""

from __future__ import annotations

import random
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as reference

from gamut.generate import sampler
from gamut.generate.history import History, Limits
from gamut.types import SamplingParams

PROMPT = 3  # ids of each history that count as prompt


@st.composite
def batches(draw, longest: int = 9):
    """Logits with ties and forbidden tokens, and rows of one length whose ids may lie outside the vocabulary."""
    vocabulary, rows = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    logit = st.one_of(st.integers(-4, 4).map(float), st.floats(-8, 8, width=32), st.just(-inf))
    logits_RV = torch.tensor([draw(st.lists(logit, min_size=vocabulary, max_size=vocabulary)) for _ in range(rows)])
    length = draw(st.integers(PROMPT, longest))
    ids = [draw(st.lists(st.integers(0, vocabulary - 1), min_size=length, max_size=length)) for _ in range(rows)]
    return logits_RV, ids


def histories(ids: list[list[int]], prompt: int = PROMPT) -> list[History]:
    return [History(tuple(row[:prompt]), row[prompt:]) for row in ids]


def ours(params: SamplingParams, limits: Limits, logits_RV: Tensor, rows: list[History]) -> Tensor:
    before_RV = logits_RV.clone()
    filtered_RV = sampler.apply_filters(sampler.build_filters(params, limits), logits_RV, rows)
    assert torch.equal(logits_RV, before_RV), "a filter wrote into its input"
    return filtered_RV


def assert_same(actual_RV: Tensor, expected_RV: Tensor) -> None:
    torch.testing.assert_close(actual_RV, expected_RV, rtol=0, atol=0, equal_nan=True)


NONE = Limits(max_new_tokens=100)


@given(batches(), st.sampled_from([0.5, 1.1, 2.0]))
@settings(max_examples=60, deadline=None)
def test_repetition_penalty(batch, penalty):
    logits_RV, ids = batch
    expected_RV = reference.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(ids), logits_RV)
    assert_same(ours(SamplingParams(repetition_penalty=penalty), NONE, logits_RV, histories(ids)), expected_RV)


def test_repetition_penalty_passes_over_ids_outside_the_vocabulary():
    logits_RV, ids = torch.tensor([[1.0, -1.0, 2.0]]), [[2, 7, 1, 9]]
    expected_RV = reference.RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor(ids), logits_RV)
    assert_same(ours(SamplingParams(repetition_penalty=2.0), NONE, logits_RV, histories(ids)), expected_RV)


@given(batches(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_no_repeat_ngram(batch, size):
    logits_RV, ids = batch
    expected_RV = reference.NoRepeatNGramLogitsProcessor(size)(torch.tensor(ids), logits_RV)
    assert_same(ours(SamplingParams(no_repeat_ngram_size=size), NONE, logits_RV, histories(ids)), expected_RV)


@given(batches(), st.data())
@settings(max_examples=60, deadline=None)
def test_logit_bias(batch, data):
    logits_RV, ids = batch
    tokens = st.integers(0, logits_RV.shape[-1] - 1)
    bias = data.draw(st.dictionaries(tokens, st.sampled_from([-inf, -2.5, 0.25, 3.0]), min_size=1))
    processor = reference.SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    assert_same(ours(SamplingParams(logit_bias=bias), NONE, logits_RV, histories(ids)), processor(torch.tensor(ids), logits_RV))


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_bad_words(batch, data):
    logits_RV, ids = batch
    tokens = st.integers(0, logits_RV.shape[-1] - 1)
    words = data.draw(st.lists(st.lists(tokens, min_size=1, max_size=3), min_size=1, max_size=6))
    eos = data.draw(tokens)
    processor = reference.NoBadWordsLogitsProcessor([*words, [0, 0]], eos_token_id=[eos])
    limits = Limits(max_new_tokens=100, eos_ids=(eos,), bad_words=tuple(tuple(word) for word in [*words, [0, 0]]))
    assert_same(ours(SamplingParams(), limits, logits_RV, histories(ids)), processor(torch.tensor(ids), logits_RV))


@given(batches(), st.integers(1, 6), st.sets(st.integers(0, 1), min_size=1))
@settings(max_examples=60, deadline=None)
def test_min_new_tokens(batch, least, eos):
    logits_RV, ids = batch
    processor = reference.MinNewTokensLengthLogitsProcessor(PROMPT, least, list(eos))
    limits = Limits(max_new_tokens=100, eos_ids=tuple(eos))
    actual_RV = ours(SamplingParams(min_new_tokens=least), limits, logits_RV, histories(ids))
    assert_same(actual_RV, processor(torch.tensor(ids), logits_RV))


@given(batches(), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_forced_bos(batch, length):
    logits_RV, ids = batch
    ids = [row[:length] for row in ids]
    limits = Limits(max_new_tokens=100, forced_bos_id=1)
    expected_RV = reference.ForcedBOSTokenLogitsProcessor(1)(torch.tensor(ids), logits_RV)
    assert_same(ours(SamplingParams(), limits, logits_RV, histories(ids, prompt=1)), expected_RV)


@given(batches(), st.integers(1, 7), st.sets(st.integers(0, 1), min_size=1))
@settings(max_examples=60, deadline=None)
def test_forced_eos(batch, most, tokens):
    logits_RV, ids = batch
    limits = Limits(max_new_tokens=most, forced_eos_ids=tuple(tokens))
    expected_RV = reference.ForcedEOSTokenLogitsProcessor(PROMPT + most, list(tokens))(torch.tensor(ids), logits_RV)
    assert_same(ours(SamplingParams(), limits, logits_RV, histories(ids)), expected_RV)


@given(batches(longest=5), st.sets(st.integers(0, 1), min_size=1))
@settings(max_examples=60, deadline=None)
def test_suppress(batch, tokens):
    logits_RV, ids = batch
    expected_RV = reference.SuppressTokensLogitsProcessor(list(tokens))(torch.tensor(ids), logits_RV)
    limits = Limits(max_new_tokens=100, suppress=tuple(tokens))
    assert_same(ours(SamplingParams(), limits, logits_RV, histories(ids)), expected_RV)
    expected_RV = reference.SuppressTokensAtBeginLogitsProcessor(list(tokens), PROMPT)(torch.tensor(ids), logits_RV)
    limits = Limits(max_new_tokens=100, begin_suppress=tuple(tokens))
    assert_same(ours(SamplingParams(), limits, logits_RV, histories(ids)), expected_RV)


@given(batches(), st.integers(1, 20), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_top_k(batch, size, least):
    logits_RV, _ = batch
    expected_RV = reference.TopKLogitsWarper(size, min_tokens_to_keep=least)(None, logits_RV)
    assert_same(sampler.top_k(logits_RV, size, least), expected_RV)


@given(batches(), st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.999999]), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_top_p(batch, mass, least):
    logits_RV, _ = batch
    expected_RV = reference.TopPLogitsWarper(mass, min_tokens_to_keep=least)(None, logits_RV)
    assert_same(sampler.top_p(logits_RV, mass, least), expected_RV)


@given(batches(), st.sampled_from([0.01, 0.25, 0.5, 1.0]), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_min_p(batch, share, least):
    logits_RV, _ = batch
    expected_RV = reference.MinPLogitsWarper(share, min_tokens_to_keep=least)(None, logits_RV)
    assert_same(sampler.min_p(logits_RV, share, least), expected_RV)


@given(batches(), st.sampled_from([0.01, 0.3, 0.5, 0.95]), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_typical_p(batch, mass, least):
    logits_RV, _ = batch
    expected_RV = reference.TypicalLogitsWarper(mass, min_tokens_to_keep=least)(None, logits_RV)
    assert_same(sampler.typical_p(logits_RV, mass, least), expected_RV)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 0.99, 0.999999])
@pytest.mark.parametrize("scale", [0.1, 2.0, 6.0])
@pytest.mark.parametrize("decimals", [1, 2, 6])  # few decimals: many ties
def test_top_p_over_a_large_vocabulary(mass, scale, decimals):
    generator = torch.Generator().manual_seed(int(mass * 100) + int(scale * 10) + decimals)
    logits_RV = torch.round(torch.randn(4, 5000, generator=generator) * scale, decimals=decimals)
    logits_RV[0, 40:] = -inf
    for least in (1, 3):
        expected_RV = reference.TopPLogitsWarper(mass, min_tokens_to_keep=least)(None, logits_RV)
        assert_same(sampler.top_p(logits_RV, mass, least), expected_RV)


def test_top_p_over_a_large_vocabulary_where_the_rounding_of_a_sum_decides():
    logits_RV = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * 6
    masses = logits_RV.double().softmax(-1).sort(descending=True).values.cumsum(-1)[0, :60]
    for mass in masses.tolist():
        assert_same(sampler.top_p(logits_RV, mass), reference.TopPLogitsWarper(mass)(None, logits_RV))


@pytest.mark.parametrize("seed", range(12))
def test_all_filters_together_in_the_order_of_generate(seed):
    """Along a sequence that transformers samples, our filtered logits equal the scores that it drew from."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=40, n_positions=64, n_embd=32, n_layer=1, n_head=2, initializer_range=0.4)
    model = GPT2LMHeadModel(config).eval()

    def maybe(value):
        return value if chance.random() < 0.6 else None

    params = SamplingParams(
        min_new_tokens=maybe(4),
        logit_bias=maybe({3: -inf, 5: 1.5}),
        repetition_penalty=maybe(1.4),
        no_repeat_ngram_size=maybe(2),
        temperature=chance.choice([0.7, 1.0, 1.6]),
        top_k=maybe(25),
        top_p=maybe(0.9),
        min_p=maybe(0.01),
        typical_p=maybe(0.9),
    )
    prompt = [chance.randrange(40) for _ in range(chance.choice([1, 4]))]
    limits = Limits(
        max_new_tokens=12,
        eos_ids=(7, 11),
        forced_bos_id=maybe(9),
        forced_eos_ids=(7,) if chance.random() < 0.6 else (),
        suppress=(2, 4),
        begin_suppress=(6, 8),
        bad_words=((10,), (12, 13)),
    )
    expected = model.generate(
        torch.tensor([prompt]),
        do_sample=True,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        pad_token_id=0,
        max_new_tokens=limits.max_new_tokens,
        eos_token_id=list(limits.eos_ids),
        forced_bos_token_id=limits.forced_bos_id,
        forced_eos_token_id=list(limits.forced_eos_ids) or None,
        suppress_tokens=list(limits.suppress),
        begin_suppress_tokens=list(limits.begin_suppress),
        bad_words_ids=[list(word) for word in limits.bad_words],
        min_new_tokens=params.min_new_tokens,
        sequence_bias={(token,): value for token, value in params.logit_bias.items()} if params.logit_bias else None,
        repetition_penalty=params.repetition_penalty or 1.0,
        no_repeat_ngram_size=params.no_repeat_ngram_size or 0,
        temperature=params.temperature,
        top_k=params.top_k or 0,
        top_p=params.top_p or 1.0,
        min_p=params.min_p,
        typical_p=params.typical_p or 1.0,
    )
    output = expected.sequences[0, len(prompt) :].tolist()
    for step, (raw_RV, scores_RV) in enumerate(zip(expected.logits, expected.scores, strict=True)):
        assert_same(ours(params, limits, raw_RV, [History(tuple(prompt), output[:step])]), scores_RV)
