"""What a language model refuses, and what becomes of it when it is copied, forked or closed."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gamut
from gamut.errors import CancelledError, OptionError, UsageError
from gamut.text import Tokenizer, train


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["the old boat is ready until morning"], "char", 40)


@pytest.fixture
def lm(tiny_config: Callable[..., dict[str, Any]], tokenizer: Tokenizer) -> gamut.LanguageModel:
    config = tiny_config("gpt2", eos_token_id=None, bos_token_id=None, n_positions=64)
    return gamut.LanguageModel.from_config(config, tokenizer)


IDS = torch.tensor([[5, 6, 7]])


@pytest.mark.parametrize(
    "ids", [IDS.float(), IDS.bool(), IDS[0], IDS[None], IDS[:0], [[5, 6]], None], ids=lambda ids: type(ids).__name__
)
def test_ids_must_be_an_integer_tensor_of_batch_and_tokens(lm: gamut.LanguageModel, ids: Any) -> None:
    for call in (lm.logits, lm.generate_ids):
        with pytest.raises(UsageError, match=r"integer tensor of shape \[batch, tokens\]"):
            call(ids)


@pytest.mark.parametrize(
    "mask", [torch.ones(1, 2), torch.tensor([[1, 2, 1]]), torch.tensor([[1, float("nan"), 1]]), [[1, 1, 1]]]
)
def test_a_mask_must_be_of_ones_and_zeros_like_the_ids(lm: gamut.LanguageModel, mask: Any) -> None:
    for call in (lm.logits, lm.generate_ids):
        with pytest.raises(UsageError, match="attention_mask must hold 1"):
            call(IDS, mask)


@pytest.mark.parametrize("prompt", [None, 3, {"role": "user"}, [None], gamut.Message("user", "a")])
def test_a_prompt_must_be_a_text_or_a_list_of_messages(lm: gamut.LanguageModel, prompt: Any) -> None:
    with pytest.raises(UsageError, match="a text, or a chat as a list"):
        lm.generate(prompt)


@pytest.mark.parametrize("ids", [None, [1.5, "a"], ["a"]])
def test_attention_is_of_a_text_or_ids(lm: gamut.LanguageModel, ids: Any) -> None:
    with pytest.raises(UsageError):
        lm.attention(ids)


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.5}, {"length_penalty": 2.0}, {"early_stopping": True}])
def test_an_option_without_effect_is_refused(lm: gamut.LanguageModel, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="would have no effect"):
        lm.generate("the", **options)


def test_a_stream_that_the_models_end_cuts_says_so(lm: gamut.LanguageModel) -> None:
    stream = lm.stream("the", max_new_tokens=60)
    next(stream)
    lm.close()
    with pytest.raises(CancelledError, match="before the answer was complete"):
        for _ in stream:
            pass


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda lm: pickle.loads(pickle.dumps(lm))], ids=["deepcopy", "pickle"])
def test_a_copy_has_an_engine_of_its_own(lm: gamut.LanguageModel, copied: Callable[[Any], Any]) -> None:
    expected = lm.generate("the", max_new_tokens=5)
    other = copied(lm)
    lm.close()
    assert other.generate("the", max_new_tokens=5) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_generates_too(lm: gamut.LanguageModel) -> None:
    expected = lm.generate("the", max_new_tokens=5).text
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, lm.generate("the", max_new_tokens=5).text.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        assert answer.read().decode() == expected
    os.waitpid(child, 0)


def test_a_path_is_a_name_too(lm: gamut.LanguageModel, tmp_path: Path) -> None:
    lm.save(tmp_path / "model")
    loaded = gamut.load(tmp_path / "model", device="cpu")
    assert torch.equal(loaded.logits(IDS), lm.logits(IDS))
