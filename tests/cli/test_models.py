"""`gamut models show`: sizes by hand and by transformers, from directories that hold no weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gamut.checkpoint.generation import generation_defaults
from gamut.cli.app import main
from gamut.cli.models import beyond_greedy

SHARED = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = transformers.LlamaConfig(
    **SHARED,
    architectures=["LlamaForCausalLM"],
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
GPT2 = transformers.GPT2Config(**SHARED, architectures=["GPT2LMHeadModel"], n_embd=32, n_layer=2, n_head=4, n_positions=24)
BERT = transformers.BertConfig(
    vocab_size=50,
    architectures=["BertForMaskedLM"],
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=40,
)
MARIAN = transformers.MarianConfig(
    **SHARED,
    architectures=["MarianMTModel"],
    d_model=32,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=56,
    max_position_embeddings=40,
    decoder_start_token_id=0,
    forced_eos_token_id=2,
)


def written(config: transformers.PreTrainedConfig, directory: Path) -> Path:
    """A directory with the configuration alone."""
    config.save_pretrained(directory)
    return directory


def show(capsys: pytest.CaptureFixture[str], directory: Path) -> dict[str, Any]:
    assert main(["models", "show", str(directory), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    facts: dict[str, Any] = json.loads(captured.out)
    return facts


@pytest.mark.parametrize("config", [LLAMA, GPT2, BERT, MARIAN], ids=lambda config: config.model_type)
def test_the_parameters_are_as_many_as_in_transformers(
    config: transformers.PreTrainedConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    facts = show(capsys, written(config, tmp_path))
    with torch.device("meta"):
        peer = getattr(transformers, config.architectures[0])(config)
    # Fixed waves of sinusoidal positions are frozen parameters there; Marian's bias of the logits is a buffer.
    count = sum(weights.numel() for weights in peer.parameters() if weights.requires_grad)
    count += sum(bias.numel() for name, bias in peer.named_buffers() if name == "final_logits_bias")
    assert facts["parameters"]["total"] == sum(facts["parameters"]["parts"].values()) == count
    assert facts["weight_bytes"] == {"float32": 4 * count, "bfloat16": 2 * count, "float16": 2 * count}
    assert facts["architecture"] == config.architectures[0]
    assert facts["family"] == config.model_type


def test_a_decoder_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    facts = show(capsys, written(LLAMA, tmp_path))
    assert facts["kind"] == "decoder-only"
    assert facts["width"] == 32
    assert facts["encoder"] is None
    assert facts["decoder"] == {
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_size": 8,
        "feed_forward": 48,
        "context": 64,
        "vocabulary": 50,
    }
    assert facts["parameters"]["parts"] == {
        "decoder embeddings": 50 * 32,
        "decoder attention": 3 * (2 * 32 * 32 + 2 * 32 * 16),  # query and output; key and value of two heads
        "decoder feed-forward": 3 * 3 * 32 * 48,
        "decoder norms": (2 * 3 + 1) * 32,
        "head": 50 * 32,
    }
    assert facts["tied_embeddings"] is False
    per_token = 2 * 3 * 2 * 8  # keys and values, layers, key-value heads, head size
    assert facts["cache_bytes_per_token"] == {"float32": 4 * per_token, "bfloat16": 2 * per_token, "float16": 2 * per_token}
    assert facts["cache_bytes_full_context"]["float32"] == 64 * 4 * per_token


def test_an_encoder_decoder_keeps_both_contexts_in_its_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    facts = show(capsys, written(MARIAN, tmp_path))
    assert facts["kind"] == "encoder-decoder"
    assert (facts["encoder"]["layers"], facts["decoder"]["layers"]) == (2, 3)
    assert (facts["encoder"]["feed_forward"], facts["decoder"]["feed_forward"]) == (48, 56)
    assert facts["encoder"]["context"] == facts["decoder"]["context"] == 40
    assert facts["tied_embeddings"] is True
    per_token = 2 * 3 * 4 * 8
    assert facts["cache_bytes_per_token"]["bfloat16"] == 2 * per_token
    assert facts["cache_bytes_full_context"]["bfloat16"] == (40 + 40) * 2 * per_token
    assert facts["generation"]["forced_eos_ids"] == [2]


def test_an_encoder_has_no_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    directory = written(BERT, tmp_path)
    facts = show(capsys, directory)
    assert facts["kind"] == "encoder-only"
    assert facts["decoder"] is None
    assert set(facts["cache_bytes_full_context"].values()) == {0}
    assert main(["models", "show", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "encoder layers" in out
    assert "cache per token" not in out
    assert "generation defaults" not in out


def test_the_plain_output_says_the_same(model: Path, capsys: pytest.CaptureFixture[str]):
    facts = show(capsys, model)
    assert main(["models", "show", str(model)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.replace("\n  ", "\n").splitlines())
    rows = {name: value.strip() for name, value in lines.items()}
    assert rows["model"] == str(model)
    assert rows["architecture"] == "LlamaForCausalLM (llama), decoder-only"
    assert rows["parameters"] == f"{facts['parameters']['total']:,}"
    assert rows["head"] == f"{facts['parameters']['parts']['head']:,}"
    assert rows["decoder kv heads"] == "2"
    # 2 layers, 2 key-value heads of 8, keys and values, in 4 bytes; and that for 64 tokens.
    assert rows["cache per token"] == "256 B in float32, 128 B in bfloat16, 128 B in float16"
    assert rows["cache, full context"] == "16.0 KiB in float32, 8.0 KiB in bfloat16, 8.0 KiB in float16"
    assert rows["tokenizer"] == f"{facts['tokenizer']['tokens']} tokens"
    assert rows["chat template"] == "yes"
    assert rows["tied embeddings"] == "no"
    assert rows["generation defaults"] == "greedy"


def test_a_large_model_is_shown_without_its_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    directory = written(transformers.LlamaConfig(architectures=["LlamaForCausalLM"]), tmp_path)  # LLaMA 7B's shape
    facts = show(capsys, directory)
    assert facts["parameters"]["total"] == 6_738_415_616  # 6.7B (Touvron 2023, table 2)
    assert main(["models", "show", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "25.1 GiB in float32, 12.6 GiB in bfloat16" in out


def test_tokenizer_and_template_are_told_apart(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert show(capsys, model)["tokenizer"]["chat_template"] is True
    plain = shutil.copytree(model, tmp_path / "plain", ignore=shutil.ignore_patterns("*.jinja"))
    assert show(capsys, plain)["tokenizer"]["chat_template"] is False
    bare = shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.jinja", "tokenizer*"))
    assert show(capsys, bare)["tokenizer"] is None
    assert main(["models", "show", str(bare)]) == 0
    assert capsys.readouterr().out.count("none\n") == 2


@pytest.mark.parametrize(
    ("fields", "beyond"),
    [
        ({}, {}),
        ({"do_sample": False, "top_k": 50, "top_p": 0.9, "temperature": 0.6}, {}),
        ({"do_sample": True, "top_k": 50, "top_p": 1.0}, {"temperature": 1.0, "top_k": 50}),
        ({"num_beams": 1, "length_penalty": 2.0, "early_stopping": True, "repetition_penalty": 1.0}, {}),
        ({"num_beams": 4, "length_penalty": 2.0, "early_stopping": True}, None),
        ({"repetition_penalty": 1.1, "max_length": 30, "min_length": 0}, {"repetition_penalty": 1.1, "max_length": 30}),
        ({"bad_words_ids": [[3, 4]], "suppress_tokens": [5]}, {"suppress": (5,), "bad_words": ((3, 4),)}),
        ({"guidance_scale": 2.0}, {"unsupported": ("guidance_scale = 2.0",)}),
        ({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}, {}),
    ],
)
def test_defaults_beyond_greedy(fields: dict[str, Any], beyond: dict[str, Any] | None):
    wanted = fields if beyond is None else beyond
    assert beyond_greedy(generation_defaults(fields, {}, Path("generation_config.json"), fields)) == wanted


def test_the_defaults_of_the_directory_are_shown(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    warm = shutil.copytree(model, tmp_path / "warm")
    (warm / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7, "max_new_tokens": 20}')
    assert show(capsys, warm)["generation"] == {"max_new_tokens": 20, "temperature": 0.7}
    assert main(["models", "show", str(warm)]) == 0
    assert "max_new_tokens=20, temperature=0.7" in capsys.readouterr().out


def test_what_is_no_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["models", "show", str(tmp_path / "nowhere")]) == 3
    assert main(["models", "show", str(tmp_path)]) == 3
    assert "config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "lama"}')
    assert main(["models", "show", str(tmp_path)]) == 1
    assert "did you mean 'llama'?" in capsys.readouterr().err
