"""Greedy choice and beam search against transformers' generate: the same tokens, and beam scores to 1e-4.

Our strategies are driven by the reference model itself, which reads every row whole at every step.
"""

from __future__ import annotations

import random
from math import inf

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList

from gamut.generate.strategy import Hypothesis, Limits, strategy_for
from gamut.types import SamplingParams

VOCABULARY = 40
PAD = VOCABULARY - 1  # not 0, which the reference takes for no padding token

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints")  # some draws ask for more than they allow


@pytest.fixture(scope="module")
def models() -> list[GPT2LMHeadModel]:
    torch.set_num_threads(1)
    built = []
    for seed, spread in enumerate([0.2, 0.4, 0.8]):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=spread,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        built.append(GPT2LMHeadModel(config).eval())
    return built


@torch.no_grad()
def drive(model, prompt: list[int], params: SamplingParams, limits: Limits, stop_factory=None) -> list[Hypothesis]:
    strategy = strategy_for(params, limits, prompt, stop_factory)
    rows = [list(prompt)]
    while not strategy.done:
        assert len(rows) <= strategy.width
        step = strategy.advance(model(torch.tensor(rows)).logits[:, -1].float())
        rows = [[*rows[parent], token] for parent, token in zip(step.parents, step.tokens, strict=True)]
        assert strategy.done == (not rows)
    return strategy.results()


def generate(model, prompts: list[list[int]], params: SamplingParams, limits: Limits, **more):
    options = {
        "do_sample": bool(params.temperature),
        "num_beams": params.num_beams or 1,
        "num_return_sequences": params.num_return_sequences or 1,
        "max_new_tokens": limits.max_new_tokens,
        "min_new_tokens": params.min_new_tokens,
        "eos_token_id": list(limits.eos_ids) or None,
        "repetition_penalty": params.repetition_penalty,
        "no_repeat_ngram_size": params.no_repeat_ngram_size,
        "sequence_bias": {(token,): bias for token, bias in params.logit_bias.items()} if params.logit_bias else None,
        "bad_words_ids": [list(word) for word in limits.bad_words] or None,
        "suppress_tokens": list(limits.suppress) or None,
        "begin_suppress_tokens": list(limits.begin_suppress) or None,
        "forced_bos_token_id": limits.forced_bos_id,
        "forced_eos_token_id": list(limits.forced_eos_ids) or None,
        "renormalize_logits": limits.renormalize,
        "temperature": params.temperature,
        "top_k": params.top_k or 0 if params.temperature else None,
        "top_p": params.top_p,
    }
    if (params.num_beams or 1) > 1:
        options |= {"early_stopping": params.early_stopping, "length_penalty": params.length_penalty}
    given = {name: value for name, value in options.items() if value is not None}
    return model.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long),
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **given,
        **more,
    )


def draw(chance: random.Random) -> tuple[list[int], SamplingParams, Limits]:
    """A prompt and options that go together."""

    def maybe(value, share=0.4):
        return value if chance.random() < share else None

    beams = chance.choice([2, 3, 4, 5])
    prompt = [chance.randrange(VOCABULARY) for _ in range(chance.choice([1, 3, 6]))]
    params = SamplingParams(
        num_beams=beams,
        num_return_sequences=chance.randint(1, beams),
        length_penalty=chance.choice([-1.5, -0.5, 0.0, 0.6, 1.0, 2.0, 3.0]),
        early_stopping=chance.choice([True, False, "never"]),
        min_new_tokens=maybe(chance.randint(1, 6)),
        no_repeat_ngram_size=maybe(chance.randint(1, 3)),
        repetition_penalty=maybe(chance.choice([0.8, 1.2, 2.0])),
        logit_bias=maybe({5: -inf, 6: 1.0, 9: -2.0}, 0.2),
    )
    eos = tuple(chance.sample(range(PAD), chance.choice([0, 1, 1, 2, 6])))
    limits = Limits(
        max_new_tokens=chance.randint(1, 14),
        eos_ids=eos,
        forced_bos_id=maybe(chance.randrange(VOCABULARY), 0.2),
        forced_eos_ids=eos[:1] if chance.random() < 0.25 else (),
        suppress=maybe((20, 21), 0.2) or (),
        begin_suppress=maybe((22, *eos[:1]), 0.2) or (),
        bad_words=maybe(((23,), (24, 25)), 0.2) or (),
        renormalize=chance.random() < 0.3,
    )
    # Where fewer hypotheses exist than are asked for, the reference fills up with forbidden or equal ones, and we refuse.
    forced = {*limits.forced_eos_ids, *({limits.forced_bos_id} - {None})}
    if forced & {*limits.suppress, *limits.begin_suppress} or (forced and limits.max_new_tokens == 1):
        return draw(chance)
    if limits.forced_bos_id in eos:
        return draw(chance)
    return prompt, params, limits


def assert_same_ids(hypotheses: list[Hypothesis], sequences: Tensor, prompt: list[int]) -> None:
    expected = sequences[:, len(prompt) :].tolist()
    assert len(hypotheses) == len(expected)
    for ours, theirs in zip(hypotheses, expected, strict=True):
        assert list(ours.ids) == theirs[: len(ours.ids)]
        assert set(theirs[len(ours.ids) :]) <= {PAD, -1}  # -1 where there is no end-of-sequence token


def assert_same_beams(hypotheses: list[Hypothesis], expected, prompt: list[int]) -> None:
    assert_same_ids(hypotheses, expected.sequences, prompt)
    assert [each.score for each in hypotheses] == pytest.approx(expected.sequences_scores.tolist(), abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_greedy(models, seed):
    chance = random.Random(1000 + seed)
    prompt, drawn, limits = draw(chance)
    params = SamplingParams(
        min_new_tokens=drawn.min_new_tokens,
        no_repeat_ngram_size=drawn.no_repeat_ngram_size,
        repetition_penalty=drawn.repetition_penalty,
        logit_bias=drawn.logit_bias,
    )
    model = models[seed % len(models)]
    (ours,) = drive(model, prompt, params, limits)
    assert_same_ids([ours], generate(model, [prompt], params, limits).sequences, prompt)
    assert ours.finish_reason == ("stop" if ours.ids[-1] in limits.eos_ids else "length")


@pytest.mark.parametrize("seed", range(60))
def test_beam_search(models, seed):
    prompt, params, limits = draw(random.Random(seed))
    model = models[seed % len(models)]
    hypotheses = drive(model, prompt, params, limits)
    assert_same_beams(hypotheses, generate(model, [prompt], params, limits), prompt)
    for each in hypotheses:
        assert each.finish_reason == ("stop" if each.ids[-1] in limits.eos_ids else "length")


class EndsInSum(StoppingCriteria):
    """Ends a row whose last two generated ids add up to a multiple of nine."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:  # noqa: ARG002
        if input_ids.shape[1] < self.prompt + 2:
            return torch.zeros(len(input_ids), dtype=torch.bool)
        return input_ids[:, -2:].sum(-1) % 9 == 0


def ends_in_sum():
    """The same as a stop condition of ours."""
    last: list[int] = []

    def stop(token: int) -> bool:
        last.append(token)
        return len(last) > 1 and sum(last[-2:]) % 9 == 0

    return stop


@pytest.mark.parametrize("seed", range(15))
def test_beam_search_with_a_stop_condition(models, seed):
    prompt, params, limits = draw(random.Random(2000 + seed))
    model = models[seed % len(models)]
    hypotheses = drive(model, prompt, params, limits, ends_in_sum)
    criteria = StoppingCriteriaList([EndsInSum(len(prompt))])
    assert_same_beams(hypotheses, generate(model, [prompt], params, limits, stopping_criteria=criteria), prompt)


@pytest.mark.parametrize("seed", range(20))
def test_beam_sampling(models, seed, monkeypatch):
    """Both draw by the same rule here, one that returns places out of order, as a random draw does."""
    noise_V = -torch.empty(VOCABULARY).exponential_(generator=torch.Generator().manual_seed(seed)).log()

    def perturbed(probs: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
        return (probs.log() + noise_V.repeat(probs.shape[-1] // VOCABULARY)).topk(num_samples).indices

    monkeypatch.setattr(torch, "multinomial", perturbed)
    chance = random.Random(3000 + seed)
    beams = chance.choice([2, 3])
    params = SamplingParams(
        num_beams=beams,
        num_return_sequences=chance.randint(1, beams),
        length_penalty=chance.choice([0.0, 1.0, 2.0]),
        early_stopping=chance.choice([True, False, "never"]),
        temperature=chance.choice([0.8, 1.0, 1.5]),
        top_k=chance.choice([None, 20]),
        top_p=chance.choice([None, 0.999]),
        repetition_penalty=chance.choice([None, 1.2]),
    )
    limits = Limits(max_new_tokens=10, eos_ids=tuple(chance.sample(range(PAD), chance.choice([0, 1, 2]))))
    prompt = [chance.randrange(VOCABULARY) for _ in range(3)]
    model = models[0]  # the flattest: enough tokens have a probability above 0
    assert_same_beams(drive(model, prompt, params, limits), generate(model, [prompt], params, limits), prompt)


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_gives_each_prompt_what_it_gets_alone(models, seed):
    """The reference runs a batch until all its prompts are done; those that were done before must not change."""
    chance = random.Random(4000 + seed)
    _, params, limits = draw(chance)
    prompts = [[chance.randrange(VOCABULARY) for _ in range(4)] for _ in range(3)]
    model = models[seed % len(models)]
    expected = generate(model, prompts, params, limits)
    count = params.num_return_sequences or 1
    for i, prompt in enumerate(prompts):
        hypotheses = drive(model, prompt, params, limits)
        assert_same_ids(hypotheses, expected.sequences[i * count : (i + 1) * count], prompt)
