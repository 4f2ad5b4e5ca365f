"""The runner's logits are those of the whole forward pass, whatever rows share the batch and wherever they come from.

B: rows, V: vocabulary.
"""

from __future__ import annotations

import pytest
import torch

from gamut.generate import Limits, Runner, Sequence, strategy_for
from gamut.types import SamplingParams


def sequence(prompt: list[int], start: tuple[int, ...] = (), new: int = 8) -> Sequence:
    strategy = strategy_for(SamplingParams(temperature=0.0), Limits(new), start or tuple(prompt))
    return Sequence(tuple(prompt), strategy, new, start)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "marian"])
@torch.inference_mode()
def test_prefill_and_steps_equal_the_whole_pass(tiny_model, model_type):
    transformer = tiny_model(model_type).transformer
    both = model_type == "marian"

    def expected(prompt: list[int], row: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt if both else row])
        return transformer(ids, decoder_ids_BT=torch.tensor([row]) if both else None)[0, -1]

    prompts = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]
    rows = [([39] if both else prompt) for prompt in prompts]
    runner = Runner(transformer)
    logits_BV = runner.prefill([sequence(prompt, (39,) if both else ()) for prompt in prompts])
    for parents, tokens in [
        (None, None),
        ([0, 1, 2], [10, 11, 12]),
        ([2, 0, 0], [13, 14, 15]),
        ([1], [16]),
        ([0, 0], [17, 18]),
    ]:
        if parents is not None:
            logits_BV = runner.step(parents, tokens)
            rows = [[*rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
            prompts = [prompts[parent] for parent in parents]
        assert logits_BV.shape == (len(rows), 40)
        for logits_V, prompt, row in zip(logits_BV, prompts, rows, strict=True):
            torch.testing.assert_close(logits_V, expected(prompt, row), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_the_decoder_may_start_with_several_ids_of_unequal_number(tiny_model):
    transformer = tiny_model("marian").transformer
    logits_BV = Runner(transformer).prefill([sequence([1, 2], (39, 5, 6)), sequence([3, 4, 5], (39,))])
    for logits_V, (prompt, start) in zip(logits_BV, [([1, 2], [39, 5, 6]), ([3, 4, 5], [39])], strict=True):
        expected = transformer(torch.tensor([prompt]), decoder_ids_BT=torch.tensor([start]))[0, -1]
        torch.testing.assert_close(logits_V, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_rows_may_fill_the_context_to_its_end(tiny_model):
    transformer = tiny_model("gpt2").transformer
    runner = Runner(transformer)
    runner.prefill([sequence(list(range(30)), new=2), sequence([1], new=31)])
    runner.step([0, 1], [2, 3])
    row = [1, 3]
    for token in range(29):
        logits_BV = runner.step([1] if token == 0 else [0], [token])
        row.append(token)
    torch.testing.assert_close(logits_BV[0], transformer(torch.tensor([row]))[0, -1], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_logits_are_float32_whatever_the_weights_are(tiny_model):
    runner = Runner(tiny_model("llama").transformer.to(torch.bfloat16))
    assert runner.prefill([sequence([1, 2])]).dtype == torch.float32
    assert runner.step([0], [3]).dtype == torch.float32


@torch.inference_mode()
def test_a_new_batch_knows_nothing_of_the_last(tiny_model):
    transformer = tiny_model("llama").transformer
    runner = Runner(transformer)
    expected = runner.prefill([sequence([1, 2, 3])])
    runner.prefill([sequence([9, 9, 9, 9]), sequence([8])])
    runner.step([0, 1], [1, 1])
    runner.release()
    assert torch.equal(runner.prefill([sequence([1, 2, 3])]), expected)
