"""text -> chat template -> ids -> Transformer -> logits -> sampler -> id -> stream -> Chunk, each joint held against the next.

The ends are held against transformers on the same directory: its ids of the chat, its logits, its generated text.

B: batch, T: tokens, V: vocabulary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gamut
from gamut import Message
from gamut.errors import ContextOverflow, OptionError, TemplateError, TokenizerError, UsageError
from gamut.text import TextStream, chat_ids, train

SENTENCES = (
    "the river carries the old boat down to the sea",
    "a small boat waits at the river until the morning",
    "für die Möwe ist das Meer nicht groß 🚣 genug",
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [Message("system", "the sea is groß"), Message("user", "carries the river a boat? 🚣")]
PROMPT = "the old boat"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = train(SENTENCES, "bpe", 300, extra_special_tokens=roles).with_chat_template(TEMPLATE)
    shape = {
        "model_type": "llama",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    path = tmp_path_factory.mktemp("flow") / "model"
    gamut.LanguageModel.from_config(shape, tokenizer, seed=3).save(path)
    return path


@pytest.fixture(scope="module")
def lm(directory: Path) -> Iterator[gamut.LanguageModel]:
    lm = gamut.load(str(directory), device="cpu")
    yield lm
    lm.close()


def ids_of(lm: gamut.LanguageModel, text: str) -> list[int]:
    assert lm.tokenizer is not None
    return lm.tokenizer.encode(text)


@torch.no_grad()
def test_the_first_arrow_of_the_design(lm: gamut.LanguageModel, directory: Path):
    new = 12
    peer_tokenizer, peer = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory).eval()
    assert lm.tokenizer is not None
    chunks = list(lm.stream(CHAT, max_new_tokens=new))
    completion = lm.generate(CHAT, max_new_tokens=new)

    # chat -> ids
    prompt = chat_ids(lm.tokenizer, CHAT)
    messages = [{"role": message.role, "content": message.content} for message in CHAT]
    assert prompt == peer_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt.count(lm.tokenizer.bos_id) == 1
    assert completion.prompt_tokens == len(prompt)

    # ids -> logits
    read = torch.tensor([prompt + [chunk.id for chunk in chunks]])
    logits_BTV = lm.logits(read)
    torch.testing.assert_close(logits_BTV, peer(read).logits, atol=1e-4, rtol=1e-4)

    # logits -> sampler -> id: greedy choice is the best of the logits of one full pass, which uses no cache
    ids = [chunk.id for chunk in chunks]
    assert ids == logits_BTV[0, len(prompt) - 1 : -1].argmax(-1).tolist()
    assert tuple(ids) == completion.ids

    # id -> stream -> Chunk
    stream = TextStream(lm.tokenizer)
    texts = [stream.push(token) for token in ids]
    texts[-1] += stream.finish()
    assert [chunk.text for chunk in chunks] == texts
    assert "".join(texts) == completion.text
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [completion.finish_reason]

    # text: transformers' own path from end to end
    generated = peer.generate(torch.tensor([prompt]), max_new_tokens=new, do_sample=False)[0, len(prompt) :]
    assert generated.tolist() == ids
    assert peer_tokenizer.decode(generated, skip_special_tokens=True) == completion.text


def test_a_plain_text_goes_the_same_way_as_in_transformers(lm: gamut.LanguageModel, directory: Path):
    peer_tokenizer, peer = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    read = peer_tokenizer(PROMPT, return_tensors="pt")
    generated = peer.generate(**read, max_new_tokens=20, do_sample=False)[0, read["input_ids"].shape[1] :]
    assert lm.generate(PROMPT, max_new_tokens=20).text == peer_tokenizer.decode(generated, skip_special_tokens=True)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 4}, {"num_beams": 3}, {"stop": "the"}])
def test_every_way_to_ask_gives_the_same(sampling: dict[str, object], lm: gamut.LanguageModel):
    options = {"max_new_tokens": 16, **sampling}
    completion = lm.generate(PROMPT, **options)

    async def collect() -> list[gamut.Chunk]:
        return [chunk async for chunk in lm.astream(PROMPT, **options)]

    for chunks in (list(lm.stream(PROMPT, **options)), asyncio.run(collect())):
        assert "".join(chunk.text for chunk in chunks) == completion.text
        assert tuple(chunk.id for chunk in chunks) == completion.ids
        assert chunks[-1].finish_reason == completion.finish_reason
    assert lm.generate_many([PROMPT], **options) == [completion]
    assert lm.generate_ids(torch.tensor([ids_of(lm, PROMPT)]), **options).tolist() == [list(completion.ids)]


def test_prompts_of_unequal_length_are_answered_as_if_alone(lm: gamut.LanguageModel):
    prompts = ["the", "a small boat waits at the river", CHAT, "groß 🚣"]
    assert lm.generate_many(prompts, max_new_tokens=10) == [lm.generate(prompt, max_new_tokens=10) for prompt in prompts]


def test_streams_share_an_event_loop(lm: gamut.LanguageModel):
    seeds = range(4)

    async def listen(seed: int) -> str:
        return "".join([chunk.text async for chunk in lm.astream(PROMPT, max_new_tokens=20, temperature=1.0, seed=seed)])

    async def all_at_once() -> list[str]:
        return await asyncio.gather(*map(listen, seeds))

    alone = [lm.generate(PROMPT, max_new_tokens=20, temperature=1.0, seed=seed).text for seed in seeds]
    assert asyncio.run(all_at_once()) == alone


def test_leaving_a_stream_stops_the_model_and_the_next_one_runs(lm: gamut.LanguageModel, monkeypatch: pytest.MonkeyPatch):
    submit, handles = lm._engine.submit, []
    monkeypatch.setattr(lm._engine, "submit", lambda *args: handles.extend(submit(*args)) or handles[-1:])
    endless = {"max_new_tokens": 110, "logit_bias": {2: -100.0}}
    for chunk in lm.stream(PROMPT, **endless):
        first = chunk
        break
    (hypothesis,) = handles[0].result(timeout=30)
    assert hypothesis.finish_reason == "cancelled"
    assert len(hypothesis.ids) < 110
    assert lm.generate(PROMPT, **endless).ids[0] == first.id


def test_a_stop_text_cuts_the_text_keeps_the_ids_and_is_never_shown_in_part(lm: gamut.LanguageModel):
    assert lm.tokenizer is not None
    whole = lm.generate(PROMPT, max_new_tokens=24)
    # Every text of two characters or more in the middle of the output, so that some of them span tokens.
    candidates = {whole.text[at : at + size] for at in range(4, len(whole.text) - 4) for size in (2, 3, 5)}
    spans = 0
    for stop in sorted(candidates):
        if "\N{REPLACEMENT CHARACTER}" in stop:
            continue
        cut = whole.text[: whole.text.index(stop)]
        completion = lm.generate(PROMPT, max_new_tokens=24, stop=[stop, "never in the output"])
        assert completion.text == cut
        assert completion.finish_reason == "stop"
        assert completion.ids == whole.ids[: len(completion.ids)]
        assert stop in lm.tokenizer.decode(completion.ids)
        assert stop not in lm.tokenizer.decode(completion.ids[:-1])
        shown = ""
        for chunk in lm.stream(PROMPT, max_new_tokens=24, stop=stop):
            shown += chunk.text
            assert cut.startswith(shown)
        assert shown == cut
        spans += len(lm.tokenizer.encode(stop)) > 1
    assert spans > 3


def test_logprobs_are_those_of_the_logits(lm: gamut.LanguageModel):
    completion = lm.generate(PROMPT, max_new_tokens=6, temperature=2.0, top_k=5, seed=1, logprobs=3)
    assert completion.logprobs is not None
    prompt = ids_of(lm, PROMPT)
    logits_TV = lm.logits(torch.tensor([[*prompt, *completion.ids]]))[0, len(prompt) - 1 : -1]
    for token, found, logits_V in zip(completion.ids, completion.logprobs, logits_TV, strict=True):
        raw_V = logits_V.log_softmax(-1)
        assert found.id == token
        assert found.raw == pytest.approx(raw_V[token].item(), abs=1e-4)
        assert [each for each, _ in found.top_raw] == raw_V.topk(3).indices.tolist()
        kept = logits_V.topk(5)
        filtered = dict(zip(kept.indices.tolist(), (kept.values / 2).log_softmax(-1).tolist(), strict=True))
        assert found.filtered == pytest.approx(filtered[token], abs=1e-4)
        assert dict(found.top_filtered) == pytest.approx(dict(list(filtered.items())[:3]), abs=1e-4)
    streamed = list(lm.stream(PROMPT, max_new_tokens=6, temperature=2.0, top_k=5, seed=1, logprobs=0))
    assert [chunk.logprob for chunk in streamed] == pytest.approx([each.raw for each in completion.logprobs])


def test_without_logprobs_there_are_none(lm: gamut.LanguageModel):
    assert lm.generate(PROMPT, max_new_tokens=3).logprobs is None
    assert [chunk.logprob for chunk in lm.stream(PROMPT, max_new_tokens=3)] == [None] * 3


def test_samples_follow_the_probabilities_of_the_logits(lm: gamut.LanguageModel):
    """A chi-squared test over the first token, its rare values taken together; 0.001 is exceeded once in a thousand seeds."""
    draws = 500
    logits_V = lm.logits(torch.tensor([ids_of(lm, PROMPT)]))[0, -1]
    wanted = logits_V.softmax(-1)
    common = (wanted * draws >= 8).nonzero().flatten().tolist()
    assert len(common) >= 5
    completion = lm.generate(PROMPT, max_new_tokens=1, temperature=1.0, num_return_sequences=draws, seed=7)
    drawn = [each.ids[0] for each in (completion, *completion.alternatives)]
    cells = [(wanted[token].item() * draws, drawn.count(token)) for token in common]
    cells.append((draws - sum(cell[0] for cell in cells), draws - sum(cell[1] for cell in cells)))
    chi_squared = sum((found - expected) ** 2 / expected for expected, found in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty 1931: the 99.9 % quantile, of which the normal distribution's is 3.09.
    assert chi_squared < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_several_samples_come_as_alternatives(lm: gamut.LanguageModel):
    options = {"max_new_tokens": 8, "temperature": 1.5, "seed": 2}
    completion = lm.generate(PROMPT, num_return_sequences=3, **options)
    assert len(completion.alternatives) == 2
    assert len({completion.ids, *(each.ids for each in completion.alternatives)}) == 3
    assert completion.ids == lm.generate(PROMPT, **options).ids


def test_beams_come_best_first_and_their_score_is_the_mean_log_probability(lm: gamut.LanguageModel):
    assert lm.tokenizer is not None
    completion = lm.generate(PROMPT, max_new_tokens=5, num_beams=4, num_return_sequences=3, length_penalty=1.0)
    found = [completion, *completion.alternatives]
    scores = [each.score or 0.0 for each in found]
    assert scores == sorted(scores, reverse=True)
    prompt = ids_of(lm, PROMPT)
    for each, score in zip(found, scores, strict=True):
        logprobs_TV = lm.logits(torch.tensor([[*prompt, *each.ids]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        total = logprobs_TV.gather(1, torch.tensor(each.ids)[:, None]).sum().item()
        assert score == pytest.approx(total / len(each.ids), abs=1e-3)
    greedy = lm.generate(PROMPT, max_new_tokens=5, logprobs=0)
    assert greedy.logprobs is not None
    assert scores[0] >= sum(each.raw for each in greedy.logprobs) / len(greedy.ids) - 1e-6, "worse than a beam of one"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 5}, "unknown sampling option 'max_tokens'; did you mean 'max_new_tokens'?"),
        ({"top_kk": 5}, "did you mean 'top_k'?"),
        ({"top_p": 0.5}, "top_p=0.5 would have no effect at temperature 0"),
        ({"top_k": 5, "min_p": 0.1, "temperature": 0.0}, "top_k=5, min_p=0.1 would have no effect"),
        ({"length_penalty": 1.0}, "length_penalty=1.0 would have no effect without beams; set num_beams above 1"),
        ({"early_stopping": True, "num_beams": 1}, "early_stopping=True would have no effect"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0, got -1.0"),
    ],
)
def test_options_that_cannot_be_obeyed_are_refused(options: dict[str, object], words: str, lm: gamut.LanguageModel):
    with pytest.raises(OptionError) as refused:
        lm.generate(PROMPT, **options)
    assert words in str(refused.value)
    with pytest.raises(UsageError):
        lm.stream(PROMPT, **options)


def test_a_stream_of_several_answers_is_refused(lm: gamut.LanguageModel):
    with pytest.raises(UsageError, match="use generate"):
        lm.stream(PROMPT, num_return_sequences=2, temperature=1.0)


def test_what_does_not_fit_the_context_is_refused_never_cut(lm: gamut.LanguageModel):
    held = len(ids_of(lm, PROMPT))
    with pytest.raises(ContextOverflow, match=f"the context holds 128; set max_new_tokens to at most {128 - held}"):
        lm.generate(PROMPT, max_new_tokens=128)
    assert len(lm.generate(PROMPT, max_new_tokens=128 - held, logit_bias={2: -100.0}).ids) == 128 - held
    with pytest.raises(ContextOverflow, match="shorten it by at least"):
        lm.generate("boat " * 200)


def test_what_is_missing_is_named_with_its_cure(lm: gamut.LanguageModel):
    assert lm.tokenizer is not None
    backend, config = lm.tokenizer.backend, lm.tokenizer.config
    plain = gamut.LanguageModel(lm.transformer, lm.architecture, type(lm.tokenizer)(backend, config), lm.defaults)
    with pytest.raises(TemplateError, match=r"chat_template\.jinja"):
        plain.generate(CHAT)
    bare = gamut.LanguageModel(lm.transformer, lm.architecture, None, lm.defaults)
    with pytest.raises(TokenizerError, match="use generate_ids"):
        bare.generate(PROMPT)
    with pytest.raises(TokenizerError, match="stop texts need a tokenizer"):
        bare.generate_ids(torch.tensor([[5, 6]]), stop="the")
