"""The engine through its public behaviour: the same tokens alone and together, and no caller harms another.

Parity of what is generated with transformers is in tests/parity/test_transformer.py.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import gamut
from gamut.errors import CancelledError, ContextOverflow, OptionError, TokenizerError, UsageError
from gamut.generate import Emitted, Engine, Hypothesis, Sequence, engine
from gamut.generate.history import Step
from gamut.text import train

FAMILIES = ["gpt2", "llama", "marian"]
PROMPTS = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10], [11, 12]]


@pytest.fixture
def lm(tiny_model) -> Iterator[gamut.LanguageModel]:
    model = tiny_model("llama", eos_token_id=[3, 8, 13], pad_token_id=39)
    yield model
    model.close()


def batch(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[39] * (longest - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


def generated(lm: gamut.LanguageModel, rows: list[list[int]], **sampling: Any) -> list[list[int]]:
    """New ids of each row, without the padding behind them."""
    out = lm.generate_ids(*batch(rows), **sampling).tolist()
    ends = lm.defaults.eos_ids
    return [row[: next((i + 1 for i, token in enumerate(row) if token in ends), None)] for row in out]


# --- a model with a script ------------------------------------------------------------------------------------------------


class Script:
    """A runner whose every step a test can hold up; its logits are of no interest."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.steps = 0
        self.fail: BaseException | None = None
        self.pause = 0.0

    def prefill(self, sequences: list[Sequence]) -> torch.Tensor:
        self.batches.append(len(sequences))
        return self._logits(len(sequences))

    def step(self, parents: list[int], tokens: list[int]) -> torch.Tensor:
        assert len(parents) == len(tokens)
        self.steps += 1
        return self._logits(len(parents))

    def release(self) -> None:
        pass

    def _logits(self, rows: int) -> torch.Tensor:
        time.sleep(self.pause)
        assert self.gate.wait(20)
        if self.fail is not None:
            raise self.fail
        return torch.zeros(rows, 4)


class Count:
    """A strategy that counts to `end`, or raises at `broken_at`."""

    def __init__(self, end: int, *, width: int = 1, broken_at: int | None = None) -> None:
        self.end, self.width, self.broken_at = end, width, broken_at
        self.ids: list[int] = []

    @property
    def done(self) -> bool:
        return len(self.ids) == self.end

    def advance(self, logits_RV: torch.Tensor) -> Step:
        assert len(logits_RV) == 1
        if len(self.ids) == self.broken_at:
            raise ZeroDivisionError("this sequence is broken")
        self.ids.append(len(self.ids))
        emitted = [Emitted(0, self.ids[-1], None, "length" if self.done else None)]
        return Step([], [], emitted) if self.done else Step([0], [self.ids[-1]], emitted)

    def results(self) -> list[Hypothesis]:
        return [Hypothesis(tuple(self.ids), "length" if self.done else "cancelled", None, None)]


def count(end: int, **options: Any) -> Sequence:
    return Sequence((1,), Count(end, **options), end)


FOREVER = 10**9


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def served(script) -> Iterator[Engine]:
    running = Engine(script, max_rows=4)
    yield running
    script.gate.set()
    running.close()


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "waited for 10 seconds"
        time.sleep(0.002)


# --- the same alone and together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3, "num_return_sequences": 2}, {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}],
    ids=["greedy", "beams", "filters"],
)
def test_a_batch_gives_each_prompt_what_it_gets_alone(tiny_model, model_type, options):
    model = tiny_model(model_type, eos_token_id=[3, 8, 13])
    together = generated(model, PROMPTS, max_new_tokens=12, **options)
    alone = [ids for row in PROMPTS for ids in generated(model, [row], max_new_tokens=12, **options)]
    assert together == alone
    assert len(set(map(tuple, together))) > 1
    model.close()


def test_a_seed_gives_the_same_samples_alone_and_in_any_batch(lm):
    options = {"temperature": 1.2, "seed": 5, "max_new_tokens": 12, "num_return_sequences": 3}
    alone = generated(lm, [PROMPTS[2]], **options)
    assert alone == generated(lm, [PROMPTS[2]], **options)
    assert alone == generated(lm, PROMPTS, **options)[6:9]
    assert len(set(map(tuple, alone))) == 3
    assert alone != generated(lm, [PROMPTS[2]], **(options | {"seed": 6}))
    assert alone[:1] == generated(lm, [PROMPTS[2]], **(options | {"num_return_sequences": 1}))


def test_without_a_seed_samples_differ(lm):
    options = {"temperature": 1.5, "max_new_tokens": 12}
    assert len({tuple(generated(lm, [[1, 2]], **options)[0]) for _ in range(5)}) > 1


def test_right_padding_serves_as_well_as_left(lm):
    ids, mask = batch(PROMPTS)
    flipped = torch.tensor([[*row[m.bool()].tolist(), *row[~m.bool()].tolist()] for row, m in zip(ids, mask, strict=True)])
    out = lm.generate_ids(flipped, mask.flip(1), max_new_tokens=6)
    assert torch.equal(out, lm.generate_ids(ids, mask, max_new_tokens=6))


def test_many_threads_get_the_right_answers(lm):
    jobs = [
        (row, options)
        for row in PROMPTS
        for options in ({}, {"num_beams": 3}, {"temperature": 1.0, "seed": 3}, {"min_new_tokens": 9})
    ]
    expected = [generated(lm, [row], max_new_tokens=10, **options) for row, options in jobs]
    found: dict[int, list[list[int]]] = {}
    start = threading.Barrier(len(jobs))

    def ask(i: int) -> None:
        row, options = jobs[i]
        start.wait(20)
        found[i] = generated(lm, [row], max_new_tokens=10, **options)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(len(jobs))] == expected


def test_calls_in_inference_mode_leave_a_model_that_can_be_trained(tiny_model):
    model = tiny_model("llama")
    with torch.inference_mode():
        model.generate_ids(torch.tensor([[1, 2]]), max_new_tokens=2)
    model.transformer(torch.tensor([[1, 2]])).sum().backward()
    model.close()


def test_training_between_two_calls_is_seen(lm):
    rows = [[1, 2, 3]]
    before = generated(lm, rows, max_new_tokens=8)
    with torch.no_grad():
        for parameter in lm.transformer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
    after = generated(lm, rows, max_new_tokens=8)
    assert after != before
    lm.close()
    assert generated(lm, rows, max_new_tokens=8) == after


# --- cancelling -----------------------------------------------------------------------------------------------------------


def test_cancelling_from_another_thread_ends_one_and_the_others_finish(served, script):
    script.pause = 0.001
    endless, short = served.submit(count(FOREVER), count(50))
    until(lambda: script.steps > 3)
    threading.Thread(target=endless.cancel).start()
    (cancelled,) = endless.result(timeout=10)
    assert cancelled.finish_reason == "cancelled"
    assert 3 < len(cancelled.ids) < FOREVER
    assert short.result(timeout=10)[0].ids == tuple(range(50))
    (after,) = served.submit(count(2))
    assert after.result(timeout=10)[0].ids == (0, 1)


def test_what_waits_behind_a_long_batch_can_be_cancelled_at_once(served, script):
    script.pause = 0.001
    (endless,) = served.submit(count(FOREVER))
    until(lambda: script.steps)
    (waiting,) = served.submit(count(3))
    waiting.cancel()
    assert waiting.result(timeout=10)[0].ids == ()
    assert not endless.finished
    endless.cancel()
    endless.result(timeout=10)


def test_cancelling_what_is_done_changes_nothing(served):
    (handle,) = served.submit(count(2))
    handle.result(timeout=10)
    handle.cancel()
    assert handle.result()[0].finish_reason == "length"


# --- batches --------------------------------------------------------------------------------------------------------------


def test_more_sequences_than_rows_are_served_in_turn(served, script):
    handles = served.submit(*[count(3) for _ in range(9)])
    assert [handle.result(timeout=10)[0].ids for handle in handles] == [(0, 1, 2)] * 9
    assert script.batches == [4, 4, 1]


def test_a_sequence_wider_than_a_batch_is_served_alone(served, script):
    for handle in served.submit(count(2), count(2, width=9), count(2)):
        assert handle.result(timeout=10)[0].ids == (0, 1)
    assert script.batches == [1, 1, 1]


# --- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken_at", [0, 2])
def test_an_error_in_one_sequence_is_its_own(served, broken_at):
    first, broken, last = served.submit(count(4), count(4, broken_at=broken_at), count(5))
    with pytest.raises(ZeroDivisionError, match="this sequence is broken"):
        broken.result(timeout=10)
    assert [len(each.result(timeout=10)[0].ids) for each in (first, last)] == [4, 5]
    (after,) = served.submit(count(2))
    assert after.result(timeout=10)[0].ids == (0, 1)


def test_an_error_of_the_model_is_told_to_its_batch_and_the_next_is_served(served, script):
    script.fail = MemoryError("no room for this batch")
    for handle in served.submit(count(2), count(2)):
        with pytest.raises(MemoryError, match="no room for this batch"):
            handle.result(timeout=10)
    script.fail = None
    (after,) = served.submit(count(2))
    assert after.result(timeout=10)[0].ids == (0, 1)


def test_what_is_already_done_keeps_its_result_when_the_model_fails_later(served, script):
    script.pause = 0.001
    short, endless = served.submit(count(2), count(FOREVER))
    short.result(timeout=10)
    script.fail = MemoryError("late")
    with pytest.raises(MemoryError, match="late"):
        endless.result(timeout=10)
    assert short.result()[0].ids == (0, 1)


# --- closing, idling, going away ------------------------------------------------------------------------------------------


def test_closing_cancels_what_runs_and_refuses_what_waits(served, script):
    script.pause = 0.001
    running = served.submit(*[count(FOREVER) for _ in range(4)])
    until(lambda: script.steps)
    waiting = served.submit(count(2), count(2))
    served.close()
    for handle in running:
        assert handle.result(timeout=10)[0].finish_reason == "cancelled"
    for handle in waiting:
        with pytest.raises(CancelledError, match="the engine was closed before this sequence was done; load the model again"):
            handle.result(timeout=10)
        with pytest.raises(CancelledError):
            list(handle)
    with pytest.raises(CancelledError):
        served.submit(count(2))
    served.close()


def test_a_closed_model_can_be_used_again(lm):
    expected = generated(lm, PROMPTS, max_new_tokens=4)
    lm.close()
    lm.close()
    assert generated(lm, PROMPTS, max_new_tokens=4) == expected


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gamut-engine"}


def test_the_thread_ends_when_nobody_needs_it_and_comes_back(served, monkeypatch):
    monkeypatch.setattr(engine, "_IDLE_SECONDS", 0.03)
    others = engine_threads()
    for _ in range(2):
        (handle,) = served.submit(count(2))
        assert handle.result(timeout=10)[0].ids == (0, 1)
        until(lambda: not engine_threads() - others)


def test_one_thread_serves_many_calls(served, script):
    others = engine_threads()
    script.gate.clear()
    handles = [handle for _ in range(6) for handle in served.submit(count(2))]
    assert len(engine_threads() - others) == 1
    script.gate.set()
    for handle in handles:
        handle.result(timeout=10)


def test_a_model_that_nobody_holds_is_freed(tiny_model, monkeypatch):
    monkeypatch.setattr(engine, "_IDLE_SECONDS", 0.03)
    model = tiny_model("gpt2")
    generated(model, [[1, 2]], max_new_tokens=3)
    handle, weights = weakref.ref(model), weakref.ref(model.transformer.decoder.embeddings.tokens.weight)
    del model

    def freed() -> bool:
        gc.collect()
        return handle() is None and weights() is None

    until(freed)


# --- streams --------------------------------------------------------------------------------------------------------------


def test_tokens_come_as_they_are_decided(served, script):
    script.gate.clear()
    (handle,) = served.submit(count(3))
    events = iter(handle)
    script.gate.set()
    assert next(events).id == 0
    assert [(event.id, event.finish_reason) for event in events] == [(1, None), (2, "length")]


def test_an_asynchronous_stream_does_not_block_its_loop(served, script):
    script.pause = 0.01

    async def main() -> tuple[list[list[int]], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        async def collect(handle) -> list[int]:
            return [event.id async for event in handle]

        ticker = asyncio.create_task(tick())
        found = await asyncio.gather(*map(collect, served.submit(count(10), count(5))))
        ticker.cancel()
        return list(found), ticks

    found, ticks = asyncio.run(main())
    assert found == [list(range(10)), list(range(5))]
    assert ticks > 20


@pytest.fixture
def talker(tiny_config) -> Iterator[gamut.LanguageModel]:
    """A model with a tokenizer of words."""
    tokenizer = train(["the river carries the old boat down to the sea"], "word", 40)
    model = gamut.LanguageModel.from_config(
        tiny_config("llama", vocab_size=tokenizer.vocab_size, max_position_embeddings=4096, initializer_range=0.5), tokenizer
    )
    yield model
    model.close()


@pytest.fixture
def passes(talker) -> list[None]:
    """Grows with every pass through the model."""
    counted: list[None] = []
    talker.transformer.decoder.register_forward_hook(lambda *_: counted.append(None))
    return counted


def test_leaving_a_stream_early_frees_the_model(talker, passes):
    stream = talker.stream("the old boat", max_new_tokens=4000)
    assert next(stream).finish_reason is None
    stream.close()
    talker.generate("the sea", max_new_tokens=1)  # waits for the batch before it
    assert len(passes) < 2000


def test_dropping_a_stream_before_its_first_chunk_frees_the_model(talker, passes):
    talker.stream("the old boat", max_new_tokens=4000)
    talker.astream("the old boat", max_new_tokens=4000)
    gc.collect()
    talker.generate("the sea", max_new_tokens=1)
    assert len(passes) < 2000


def test_leaving_an_asynchronous_stream_early_frees_the_model(talker, passes):
    async def main() -> None:
        stream = talker.astream("the old boat", max_new_tokens=4000)
        async for chunk in stream:
            assert chunk.finish_reason is None
            break
        await stream.aclose()

    asyncio.run(main())
    talker.generate("the sea", max_new_tokens=1)
    assert len(passes) < 2000


def test_both_streams_give_what_generate_gives(talker):
    whole = talker.generate("the river", max_new_tokens=12)

    async def collect() -> list[gamut.Chunk]:
        return [chunk async for chunk in talker.astream("the river", max_new_tokens=12)]

    for chunks in (list(talker.stream("the river", max_new_tokens=12)), asyncio.run(collect())):
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert tuple(chunk.id for chunk in chunks) == whole.ids
        assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [whole.finish_reason]


# --- calls that do not fit ------------------------------------------------------------------------------------------------


def prompt(length: int) -> torch.Tensor:
    return torch.ones(1, length, dtype=torch.long)


@pytest.mark.parametrize(
    ("length", "new", "message"),
    [
        (30, 5, "the prompt has 30 tokens and max_new_tokens is 5, and the context holds 32; set max_new_tokens to at most 2"),
        (32, None, "the prompt has 32 tokens, and the context holds 32; shorten it by at least 1 tokens"),
        (40, 3, "the prompt has 40 tokens and max_new_tokens is 3, and the context holds 32; shorten it by at least 9 tokens"),
    ],
)
def test_what_does_not_fit_the_context_is_refused_with_the_numbers(lm, length, new, message):
    with pytest.raises(ContextOverflow, match=message):
        lm.generate_ids(prompt(length), **({} if new is None else {"max_new_tokens": new}))


def test_what_just_fits_the_context_is_generated(lm):
    assert lm.generate_ids(prompt(30), max_new_tokens=2, min_new_tokens=2).shape == (1, 2)
    assert lm.generate_ids(prompt(31)).shape == (1, 1)


def test_a_source_longer_than_the_encoder_takes(tiny_model):
    with pytest.raises(ContextOverflow, match="the prompt has 33 tokens, and the encoder takes 32; shorten it"):
        tiny_model("marian").generate_ids(prompt(33), max_new_tokens=2)


def test_logits_of_more_than_the_context(lm):
    with pytest.raises(ContextOverflow, match="33 tokens do not fit the model's context of 32; shorten the text by 1 tokens"):
        lm.logits(prompt(33))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_ids_outside_the_vocabulary_are_refused_before_they_reach_a_batch(tiny_model, model_type):
    with pytest.raises(
        UsageError, match=r"token ids must be from 0 to 39, got \[-2, 40, 77\]; is this tokenizer the model's own"
    ):
        tiny_model(model_type).generate_ids(torch.tensor([[1, 77, 40, -2]]), max_new_tokens=2)


def test_an_empty_prompt_begins_with_the_beginning_of_sequence_where_there_is_one(tiny_model):
    with pytest.raises(UsageError, match="the prompt is empty, and the model has no beginning-of-sequence token"):
        tiny_model("llama", bos_token_id=None).generate_ids(prompt(0), max_new_tokens=2)
    model = tiny_model("llama", bos_token_id=7)
    expected = model.generate_ids(torch.tensor([[7]]), max_new_tokens=4)
    assert torch.equal(model.generate_ids(prompt(0), max_new_tokens=4), expected)
    model.close()


def test_an_encoder_alone_cannot_generate(tiny_model):
    with pytest.raises(UsageError, match="an encoder-only model cannot generate"):
        tiny_model("bert").generate_ids(prompt(3), max_new_tokens=2)


def test_a_decoder_without_a_token_to_start_with(tiny_model):
    with pytest.raises(UsageError, match=r"names no decoder_start_token_id; add it to its generation_config\.json"):
        tiny_model("marian", decoder_start_token_id=None).generate_ids(prompt(3), max_new_tokens=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "top_k=5 would have no effect at temperature 0"),
        ({"length_penalty": 2.0}, "length_penalty=2.0 would have no effect without beams"),
        ({"num_return_sequences": 2}, "num_return_sequences must be 1 at temperature 0"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences must be at most num_beams"),
        ({"max_tokens": 5}, r"unknown sampling option 'max_tokens'"),
    ],
)
def test_options_that_do_not_go_together(lm, options, message):
    with pytest.raises(OptionError, match=message):
        lm.generate_ids(prompt(3), **options)


def test_texts_need_a_tokenizer(lm):
    for ask in (lm.generate, lm.stream, lm.astream):
        with pytest.raises(
            TokenizerError, match="this model has no tokenizer, so it takes ids alone: use generate_ids and logits"
        ):
            ask("the sea")
    with pytest.raises(TokenizerError, match="stop texts need a tokenizer"):
        lm.generate_ids(prompt(3), stop="sea")
