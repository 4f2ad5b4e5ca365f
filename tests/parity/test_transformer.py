"""Our Transformer against transformers' models with the same weights: logits to 1e-4, attention weights, generated ids.

B: batch, T: tokens, S: encoder's tokens, V: vocabulary.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.activations import ACT2FN

from gamut.nn import AttentionRecord, Cache
from gamut.nn.feedforward import ACTIVATIONS as OURS

ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "swish", "tanh", "quick_gelu", "gelu_fast", "gelu_pytorch_tanh", "sigmoid")

examples = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def configs(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    """Fields of a config.json that build a tiny model, over all that the family can vary."""

    def number(least: int, most: int) -> int:
        return draw(st.integers(least, most))

    heads, size, flag = number(1, 3), number(1, 6), st.booleans()
    fields: dict[str, Any] = {"vocab_size": number(20, 40), "tie_word_embeddings": draw(flag)}
    match model_type:
        case "gpt2":
            return fields | {
                "n_head": heads,
                "n_embd": heads * size,
                "n_layer": number(1, 3),
                "n_inner": draw(st.sampled_from([None, 1, 13])),
                "activation_function": draw(st.sampled_from(ACTIVATIONS)),
                "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
                "scale_attn_weights": draw(flag),
            }
        case "llama":
            groups = number(1, 3)
            return fields | {
                "num_key_value_heads": heads,
                "num_attention_heads": heads * groups,
                "head_dim": 2 * number(1, 4),
                "hidden_size": heads * groups * size,
                "intermediate_size": number(1, 20),
                "num_hidden_layers": number(1, 3),
                "hidden_act": draw(st.sampled_from(ACTIVATIONS)),
                "attention_bias": draw(flag),
                "mlp_bias": draw(flag),
                "rope_theta": draw(st.sampled_from([100.0, 10000.0, 500000.0])),
                "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
            }
        case "bert":
            return fields | {
                "num_attention_heads": heads,
                "hidden_size": heads * size,
                "num_hidden_layers": number(1, 3),
                "intermediate_size": number(1, 20),
                "hidden_act": draw(st.sampled_from([each for each in ACTIVATIONS if each != "gelu_fast"])),
                "type_vocab_size": number(1, 3),
                "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-2])),
            }
        case _:
            other = number(1, 3)
            shared = draw(flag)
            return fields | {
                "d_model": heads * other * size,
                "encoder_attention_heads": heads,
                "decoder_attention_heads": other,
                "encoder_layers": number(1, 3),
                "decoder_layers": number(1, 3),
                "encoder_ffn_dim": number(1, 20),
                "decoder_ffn_dim": number(1, 20),
                "share_encoder_decoder_embeddings": shared,
                "decoder_vocab_size": fields["vocab_size"] if shared else number(20, 40),
                "activation_function": draw(st.sampled_from(["relu", "gelu", "swish"])),
                "scale_embedding": draw(flag),
                "pad_token_id": 19,
                "decoder_start_token_id": 19,
            }


def assert_equal_logits(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def random_ids(chance: random.Random, vocabulary: int, length: int) -> list[int]:
    return [chance.randrange(vocabulary) for _ in range(length)]


class Pair:
    """A model of ours and the reference with the same weights."""

    def __init__(self, theirs: Any, lm: Any) -> None:
        self.theirs, self.lm = theirs, lm
        config = lm.config
        self.vocabularies = [stack.vocab_size for stack in (config.encoder, config.decoder) if stack]

    @torch.no_grad()
    def expected(self, ids: list[int], source: list[int] | None = None, **more: Any) -> Tensor:
        """The reference's logits of one row, [T, V]."""
        row = torch.tensor([ids])
        if source is None:
            return self.theirs(row, **more).logits[0]
        return self.theirs(torch.tensor([source]), decoder_input_ids=row, **more).logits[0]


@pytest.fixture(scope="session")
def pair(reference, ours):
    """``pair("gpt2", n_layer=1)``: equal models, ours read from the directory that the other wrote."""

    def make(model_type: str, **fields: Any) -> Pair:
        theirs = reference(model_type, **fields)
        return Pair(theirs, ours(theirs))

    return make


def padded(rows: list[list[int]], *, left: bool, fill: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of unequal rows; the padding holds a token that would change the result if it were seen."""
    longest = max(map(len, rows))
    gaps = [[fill] * (longest - len(row)) for row in rows]
    ids = [[*gap, *row] if left else [*row, *gap] for gap, row in zip(gaps, rows, strict=True)]
    mask = [
        [0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
        for gap, row in zip(gaps, rows, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("name", OURS)
def test_activations(name):
    x = torch.linspace(-6, 6, 241)
    torch.testing.assert_close(OURS[name](x), ACT2FN[name](x), atol=1e-6, rtol=0)


# --- logits, all at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bert"])
@examples
@given(data=st.data(), chance=st.randoms(use_true_random=True))
def test_logits_of_a_padded_batch(pair, model_type, data, chance):
    both = pair(model_type, **data.draw(configs(model_type)))
    (vocabulary,) = both.vocabularies
    rows = [random_ids(chance, vocabulary, length) for length in data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))]
    types = None
    ids_BT, mask_BT = padded(rows, left=data.draw(st.booleans()), fill=chance.randrange(vocabulary))
    more: dict[str, Any] = {}
    if model_type == "bert":
        kinds = both.theirs.config.type_vocab_size
        types = torch.tensor([random_ids(chance, kinds, ids_BT.shape[1]) for _ in rows])
        more["token_type_ids"] = types
    with torch.no_grad():
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        expected = both.theirs(ids_BT, attention_mask=mask_BT, position_ids=positions_BT, **more).logits
    got = both.lm.logits(ids_BT, mask_BT, token_type_ids=types)
    assert_equal_logits(got[mask_BT.bool()], expected[mask_BT.bool()])
    assert not got.isnan().any()  # at the padding neither: a NaN would reach the loss of whoever masks by multiplying
    for i, row in enumerate(rows):  # and alone, without a mask
        alone = torch.tensor([row])
        row_types = None if types is None else types[i : i + 1][mask_BT[i : i + 1].bool()][None]
        assert_equal_logits(both.lm.logits(alone, token_type_ids=row_types)[0], expected[i][mask_BT[i].bool()])


@examples
@given(data=st.data(), chance=st.randoms(use_true_random=True))
def test_logits_of_a_padded_batch_with_an_encoder(pair, data, chance):
    both = pair("marian", **data.draw(configs("marian")))
    lengths = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
    sources, targets = (
        [random_ids(chance, vocabulary, length) for length in column]
        for vocabulary, column in zip(both.vocabularies, zip(*lengths, strict=True), strict=True)
    )
    ids_BS, mask_BS = padded(sources, left=data.draw(st.booleans()), fill=0)
    targets_BT, target_mask_BT = padded(targets, left=data.draw(st.booleans()), fill=0)
    got = both.lm.transformer(ids_BS, mask_BS, decoder_ids_BT=targets_BT, decoder_mask_BT=target_mask_BT)
    for logits, mask, target, source in zip(got, target_mask_BT, targets, sources, strict=True):
        assert_equal_logits(logits[mask.bool()], both.expected(target, source))
        alone = both.lm.logits(torch.tensor([source]), decoder_ids=torch.tensor([target]))
        assert_equal_logits(alone[0], both.expected(target, source))


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bert", "marian"])
def test_the_weights_of_these_tests_make_a_difference(pair, model_type):
    both = pair(model_type)
    ids = random_ids(random.Random(0), 40, 12)
    logits = both.expected(ids, ids if model_type == "marian" else None)
    assert (logits.amax(-1) - logits.amin(-1)).min() > 3
    assert (logits[0] - logits[1]).abs().max() > 1


# --- logits, step by step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "marian"])
@pytest.mark.parametrize("fused", [False, True])
@examples
@given(data=st.data(), chance=st.randoms(use_true_random=True))
@torch.no_grad()
def test_logits_step_by_step(pair, model_type, fused, data, chance):
    """Unequal rows, chunks of any size, and rows that are repeated, dropped and reordered as beams are."""
    both = pair(model_type, **data.draw(configs(model_type)))
    transformer, vocabulary = both.lm.transformer, both.vocabularies[-1]
    if fused:
        transformer.fuse()
    count = data.draw(st.integers(1, 3))
    rows: list[list[int]] = [[] for _ in range(count)]
    sources: list[list[int] | None] = [None] * count
    memory: dict[str, Tensor] = {}
    if model_type == "marian":
        sources = [random_ids(chance, both.vocabularies[0], chance.randint(1, 6)) for _ in range(count)]
        ids_BS, mask_BS = padded(sources, left=False, fill=0)
        mask = None if mask_BS.all() else mask_BS
        memory = {"memory_BSW": transformer.encode(ids_BS, mask)} | ({} if mask is None else {"memory_mask_BS": mask})
    cache = Cache(transformer.config.decoder, rows=count, capacity=32, dtype=torch.float32, device=torch.device("cpu"))
    for _ in range(4):
        even = data.draw(st.booleans())
        width = chance.randint(1, 4)
        new = [random_ids(chance, vocabulary, width if even else chance.randint(1, width)) for _ in rows]
        rows = [row + more for row, more in zip(rows, new, strict=True)]
        ids_BT, mask_BT = padded(new, left=False, fill=0)
        hidden = transformer.decode(ids_BT, None if mask_BT.all() else mask_BT, cache=cache, **memory)
        memory = {}  # it is in the cache from now on
        assert cache.lengths == [len(row) for row in rows]
        for logits, added, row, source in zip(transformer.logits(hidden), new, rows, sources, strict=True):
            assert_equal_logits(logits[: len(added)], both.expected(row, source)[-len(added) :])
        keep = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
        cache.select(keep)
        rows, sources = [rows[i] for i in keep], [sources[i] for i in keep]


# --- attention weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bert", "marian"])
@pytest.mark.parametrize("mask", [None, "left", "right"])
@torch.no_grad()
def test_attention_weights_of_every_layer_and_head(pair, model_type, mask):
    both = pair(model_type)
    chance = random.Random(1)
    rows = [random_ids(chance, 40, length) for length in ((6, 6) if mask is None else (6, 3))]
    ids_BT, mask_BT = padded(rows, left=mask == "left" and model_type != "marian", fill=7)
    more: dict[str, Any] = {} if model_type == "marian" else {"position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0)}
    targets_BT = torch.tensor([random_ids(chance, 40, 4) for _ in rows]) if model_type == "marian" else None
    if targets_BT is not None:
        more["decoder_input_ids"] = targets_BT
    expected = both.theirs(ids_BT, attention_mask=mask_BT, output_attentions=True, **more)
    record = AttentionRecord()
    inputs = (ids_BT, None if mask is None else mask_BT)
    logits = both.lm.transformer(*inputs, decoder_ids_BT=targets_BT, record=record)
    real = mask_BT.bool()
    if model_type == "marian":
        pairs = [(record.encoder, expected.encoder_attentions, real), (record.cross, expected.cross_attentions, None)]
        pairs.append((record.decoder, expected.decoder_attentions, None))
    else:
        own, empty = (record.encoder, record.decoder) if model_type == "bert" else (record.decoder, record.encoder)
        assert empty == record.cross == []
        pairs = [(own, expected.attentions, real)]
    for got, wanted, rows_that_count in pairs:
        assert len(got) == len(wanted)
        for ours_BHTS, theirs_BHTS in zip(got, wanted, strict=True):
            assert ours_BHTS.shape == theirs_BHTS.shape
            chosen = torch.ones(ours_BHTS.shape[0], ours_BHTS.shape[2]).bool() if rows_that_count is None else rows_that_count
            pick = ours_BHTS.transpose(1, 2)[chosen], theirs_BHTS.transpose(1, 2)[chosen]
            torch.testing.assert_close(*pick, atol=1e-5, rtol=0)
            torch.testing.assert_close(ours_BHTS.sum(-1), torch.ones(ours_BHTS.shape[:-1]))
    plain = both.lm.transformer(*inputs, decoder_ids_BT=targets_BT)
    kept = slice(None) if model_type == "marian" else real
    torch.testing.assert_close(logits[kept], plain[kept], atol=1e-5, rtol=0)


# --- generation ---------------------------------------------------------------------------------------------------------

ENDS = [3, 8, 13, 21]  # several, so that some sequences of random models end early
PAD = 39


def cut(row: list[int]) -> list[int]:
    """A row up to its first end-of-sequence token, without the padding behind it."""
    end = next((i + 1 for i, token in enumerate(row) if token in ENDS), None)
    return row[:end]


def assert_generates_as(both: Pair, rows: list[list[int]], **call: Any) -> list[list[int]]:
    """Both generate the same for `rows` in one padded batch; returns it."""
    lm, decoder_only = both.lm, both.lm.config.encoder is None
    ids_BT, mask_BT = padded(rows, left=decoder_only, fill=PAD)
    # The reference takes its padding for a part of the prompt where it looks for repetitions: those rows run alone there.
    looks_back = {"repetition_penalty", "no_repeat_ngram_size"} & call.keys()
    batches = [padded([row], left=True, fill=PAD) for row in rows] if looks_back else [(ids_BT, mask_BT)]
    wanted = []
    for ids, mask in batches:
        generated = both.theirs.generate(ids, attention_mask=mask, **call)
        wanted += [cut(row) for row in generated[:, ids.shape[1] if decoder_only else 1 :].tolist()]
    got = [cut(row) for row in lm.generate_ids(ids_BT, mask_BT, **call).tolist()]
    assert got == wanted
    return got


CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "min_new_tokens": {"min_new_tokens": 5},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "beams": {"num_beams": 3},
    "beams, all of them": {"num_beams": 4, "num_return_sequences": 4},
    "beams that favour length": {"num_beams": 3, "length_penalty": 1.2, "early_stopping": "never"},
    "beams that favour brevity": {"num_beams": 3, "length_penalty": -1.0, "early_stopping": True, "num_return_sequences": 2},
    "beams with filters": {"num_beams": 3, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 3},
}

# Settings that only a checkpoint makes, in its generation_config.json.
CHECKPOINT: dict[str, dict[str, Any]] = {
    "forced_bos": {"forced_bos_token_id": 30},
    "forced_eos": {"forced_eos_token_id": 8},
    "bad_words": {"bad_words_ids": [[5], [9, 2], [17], [1], [30, 31]]},
    "suppress": {"suppress_tokens": [*range(20, 30)], "begin_suppress_tokens": [*ENDS, 0, 1, 2]},
    "renormalize": {"renormalize_logits": True, "repetition_penalty": 1.5, "num_beams": 3},
    "its own beams": {"num_beams": 4, "length_penalty": 0.5, "early_stopping": True, "num_return_sequences": 2},
    "min_length": {"min_length": 11},
}


@pytest.fixture(scope="module")
def generators(reference, ours):
    """Equal models that can generate, by family and the settings that travel with the checkpoint."""

    def make(model_type: str, seed: int = 0, **settings: Any) -> Pair:
        from transformers import GenerationConfig

        theirs = reference(model_type, seed=seed)
        own = {"decoder_start_token_id": PAD} if model_type == "marian" else {}
        theirs.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=PAD, **(own | settings))
        return Pair(theirs, ours(theirs))

    return make


def prompts(seed: int, lengths: tuple[int, ...]) -> list[list[int]]:
    chance = random.Random(seed)
    return [[token for token in random_ids(chance, PAD, 3 * length) if token not in ENDS][:length] for length in lengths]


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "marian"])
@pytest.mark.parametrize("case", CASES)
def test_generated_ids(generators, model_type, case):
    lengths = set()
    for seed in range(3):
        both = generators(model_type, seed)
        got = assert_generates_as(both, prompts(seed, (7, 1, 4, 9)), max_new_tokens=12, **CASES[case])
        lengths |= {len(each) for each in got}
        both.lm.close()
    assert len(lengths) > 1, "all sequences ended together, so this test shows little"


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "marian"])
@pytest.mark.parametrize("case", CHECKPOINT)
def test_generated_ids_by_the_checkpoints_own_settings(generators, model_type, case):
    both = generators(model_type, **CHECKPOINT[case])
    length = 1 if case == "forced_bos" else 5  # a decoder forces its first token after a prompt of one
    assert_generates_as(both, prompts(0, (length,) * 3), max_new_tokens=12)
    both.lm.close()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "marian"])
def test_the_checkpoints_max_length_counts_what_the_decoder_starts_with(generators, model_type):
    both = generators(model_type, max_length=11, suppress_tokens=ENDS)
    got = assert_generates_as(both, prompts(0, (6, 6)))
    assert {len(row) for row in got} == {10 if model_type == "marian" else 5}
    both.lm.close()


@pytest.mark.parametrize("model_type", ["gpt2", "marian"])
def test_min_new_tokens_of_the_call_stands_above_min_length_of_the_checkpoint(generators, model_type):
    # The reference with both goes by min_new_tokens.
    both = generators(model_type, min_length=30)
    got = assert_generates_as(both, prompts(0, (6, 6)), max_new_tokens=12, min_new_tokens=1)
    assert min(map(len, got)) < 12
    both.lm.close()
