"""Directories go both ways between gamut and transformers, with equal logits and no weight lost, renamed or made up.

B: batch, T: tokens, V: vocabulary.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import gamut
from gamut.checkpoint import architecture

AUTO = {
    "gpt2": transformers.AutoModelForCausalLM,
    "llama": transformers.AutoModelForCausalLM,
    "bert": transformers.AutoModelForMaskedLM,
    "marian": transformers.AutoModelForSeq2SeqLM,
}
FAMILIES = list(AUTO)

# Every way in which a family's set of weights can differ.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"tie_word_embeddings": False, "n_inner": 20}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 6, "rope_theta": 500.0}),
    ("bert", {}),
    ("bert", {"tie_word_embeddings": False, "type_vocab_size": 1}),
    ("marian", {}),
    ("marian", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 40, "scale_embedding": True}),
    ("marian", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 45, "tie_word_embeddings": False}),
]
variants = pytest.mark.parametrize(
    ("model_type", "fields"), VARIANTS, ids=lambda each: each if isinstance(each, str) else "-".join(each)
)


def ids(model_type: str) -> dict[str, Tensor]:
    chance = random.Random(0)
    draw = lambda: torch.tensor([[chance.randrange(40) for _ in range(7)] for _ in range(2)])  # noqa: E731
    return {"input_ids": draw()} | ({"decoder_input_ids": draw()} if model_type == "marian" else {})


@torch.no_grad()
def their_logits(model: Any, model_type: str) -> Tensor:
    return model(**ids(model_type)).logits.float()


def our_logits(lm: gamut.LanguageModel, model_type: str) -> Tensor:
    inputs = ids(model_type)
    return lm.logits(inputs["input_ids"], decoder_ids=inputs.get("decoder_input_ids"))


def assert_equal(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


# An untied model of the reference has this parameter besides the one that it reads.
UNREAD = "cls.predictions.bias"


def read_by_transformers(directory: Path, model_type: str) -> Any:
    """The directory as transformers reads it, which misses nothing and wonders at nothing."""
    model, info = AUTO[model_type].from_pretrained(directory, output_loading_info=True)
    if not model.config.tie_word_embeddings:
        info["missing_keys"] -= {UNREAD}
    assert not any(info.values()), info
    return model.eval()


def stored(directory: Path) -> dict[str, Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


# --- theirs to ours, ours to theirs ---------------------------------------------------------------------------------------


@variants
def test_what_transformers_saves_loads_and_saves_again(reference, tmp_path, model_type, fields):
    theirs = reference(model_type, **fields)
    theirs.save_pretrained(tmp_path / "theirs")
    lm = gamut.load(str(tmp_path / "theirs"), device="cpu")
    assert_equal(our_logits(lm, model_type), their_logits(theirs, model_type))
    lm.save(tmp_path / "ours")
    before, after = stored(tmp_path / "theirs"), stored(tmp_path / "ours")
    carried = set(before) - ({UNREAD} if not theirs.config.tie_word_embeddings else set())
    assert set(after) == carried
    assert all(torch.equal(after[name], before[name]) for name in carried)


@variants
def test_what_we_save_loads_in_transformers(tiny_model, tmp_path, model_type, fields):
    lm = tiny_model(model_type, **fields)
    lm.save(tmp_path / "m")
    theirs = read_by_transformers(tmp_path / "m", model_type)
    assert type(theirs).__name__ == json.loads((tmp_path / "m" / "config.json").read_text())["architectures"][0]
    assert_equal(our_logits(lm, model_type), their_logits(theirs, model_type))


def test_an_untied_marian_keeps_its_three_tables_apart_as_transformers_does(reference, ours):
    theirs = reference("marian", share_encoder_decoder_embeddings=True, tie_word_embeddings=False)
    assert_equal(our_logits(ours(theirs), "marian"), their_logits(theirs, "marian"))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_fresh_weights_are_drawn_as_wide_as_the_reference_draws_them(tiny_config, model_type):
    lm = gamut.LanguageModel.from_config(tiny_config(model_type, vocab_size=400))
    weights = lm.transformer.state_dict()
    stack = "encoder" if model_type == "bert" else "decoder"
    for name in (f"{stack}.blocks.0.attention.q.weight", f"{stack}.blocks.0.feed_forward.up.weight"):
        assert weights[name].std().item() == pytest.approx(0.02, rel=0.2)
        assert not weights[name.replace("weight", "bias")].any() if name.replace("weight", "bias") in weights else True


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_with_every_default_spelt_out_is_understood(reference, model_type):
    fields = reference(model_type).config.to_dict()
    assert architecture(fields).config == architecture(reference(model_type).config.to_diff_dict()).config


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type):
    theirs = transformers.AutoConfig.for_model(model_type)
    config = architecture({"model_type": model_type}).config
    assert config == architecture(theirs.to_dict()).config


# --- shards ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
def test_shards_of_transformers(reference, tmp_path, model_type):
    theirs = reference(model_type)
    theirs.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_equal(our_logits(gamut.load(str(tmp_path), device="cpu"), model_type), their_logits(theirs, model_type))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_shards_of_ours(tiny_model, tmp_path, model_type):
    lm = tiny_model(model_type)
    lm.save(tmp_path / "m", shard_bytes=5000)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    expected = our_logits(lm, model_type)
    assert_equal(our_logits(gamut.load(str(tmp_path / "m"), device="cpu"), model_type), expected)
    assert_equal(their_logits(read_by_transformers(tmp_path / "m", model_type), model_type), expected)


# --- dtypes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
def test_bfloat16(reference, tmp_path, model_type):
    theirs = reference(model_type).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    lm = gamut.load(str(tmp_path / "theirs"), device="cpu")
    assert {each.dtype for each in lm.transformer.parameters()} == {torch.bfloat16}
    # Two orders of rounding to 8 bits: far from equal to 1e-4, and equally far from the exact logits.
    wide = gamut.load(str(tmp_path / "theirs"), device="cpu", dtype="float32")
    exact = our_logits(wide, model_type)
    assert_equal(exact, their_logits(AUTO[model_type].from_pretrained(tmp_path / "theirs", dtype=torch.float32), model_type))
    assert (our_logits(lm, model_type) - exact).abs().max() < 0.05 * (exact.max() - exact.min())
    lm.save(tmp_path / "ours")
    assert {each.dtype for each in stored(tmp_path / "ours").values()} == {torch.bfloat16}
    assert read_by_transformers(tmp_path / "ours", model_type).dtype == torch.bfloat16
    assert_equal(their_logits(AUTO[model_type].from_pretrained(tmp_path / "ours", dtype=torch.float32), model_type), exact)


def test_the_dtype_that_the_directory_names_wins_over_the_one_of_the_file(reference, tmp_path):
    reference("gpt2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):  # newer and older directories
        changed = {name: value for name, value in config.items() if name != "dtype"} | {key: "float16"}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        lm = gamut.load(str(tmp_path), device="cpu")
        assert {each.dtype for each in lm.transformer.parameters()} == {torch.float16}


# --- files as other tools and older versions write them -------------------------------------------------------------------


def test_a_gpt2_that_was_saved_without_its_head(reference, tmp_path):
    theirs = reference("gpt2")
    theirs.transformer.save_pretrained(tmp_path / "bare")
    assert "wte.weight" in stored(tmp_path / "bare")
    lm = gamut.load(str(tmp_path / "bare"), device="cpu")
    assert_equal(our_logits(lm, "gpt2"), their_logits(theirs, "gpt2"))
    lm.save(tmp_path / "ours")
    assert_equal(their_logits(read_by_transformers(tmp_path / "ours", "gpt2"), "gpt2"), their_logits(theirs, "gpt2"))


RELICS = {
    "gpt2": {"transformer.h.0.attn.bias": (1, 1, 32, 32), "transformer.h.1.attn.masked_bias": ()},
    "llama": {"model.layers.1.self_attn.rotary_emb.inv_freq": (2,)},
    "bert": {"bert.embeddings.position_ids": (1, 32), "cls.seq_relationship.weight": (2, 16)},
    "marian": {"model.encoder.embed_positions.weight": (32, 16), "model.decoder.embed_positions.weight": (32, 16)},
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_buffers_that_older_versions_stored_are_passed_over(reference, tmp_path, model_type):
    theirs = reference(model_type)
    theirs.save_pretrained(tmp_path)
    relics = {name: torch.zeros(shape) for name, shape in RELICS[model_type].items()}
    save_file(stored(tmp_path) | relics, tmp_path / "model.safetensors", {"format": "pt"})
    assert_equal(our_logits(gamut.load(str(tmp_path), device="cpu"), model_type), their_logits(theirs, model_type))


def test_a_bare_gpt2_with_such_buffers(reference, tmp_path):
    theirs = reference("gpt2")
    theirs.transformer.save_pretrained(tmp_path)
    save_file(stored(tmp_path) | {"h.0.attn.bias": torch.zeros(1, 1, 32, 32)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert_equal(our_logits(gamut.load(str(tmp_path), device="cpu"), "gpt2"), their_logits(theirs, "gpt2"))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_pickle_which_stores_every_copy_of_a_tied_table(reference, tmp_path, model_type):
    theirs = reference(model_type, **({"tie_word_embeddings": True} if model_type == "llama" else {}))
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(gamut.GamutError, match="allow_pickle=True"):
        gamut.load(str(tmp_path), device="cpu")
    lm = gamut.load(str(tmp_path), device="cpu", allow_pickle=True)
    assert_equal(our_logits(lm, model_type), their_logits(theirs, model_type))


def test_a_bert_that_was_pretrained_with_both_of_its_heads(spread, tmp_path, tiny_config):
    fields = tiny_config("bert")
    fields.pop("model_type")
    both_heads = spread(transformers.BertForPreTraining(transformers.BertConfig(**fields)))
    both_heads.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        expected = both_heads(**ids("bert")).prediction_logits
    assert_equal(our_logits(gamut.load(str(tmp_path), device="cpu"), "bert"), expected)


# --- tying, and the generation settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tying_holds_after_load_training_save_and_load(reference, tmp_path, model_type):
    theirs = reference(model_type, tie_word_embeddings=True)
    theirs.save_pretrained(tmp_path / "0")
    for step in range(2):
        lm = gamut.load(str(tmp_path / str(step)), device="cpu")
        inputs = ids(model_type)
        logits = lm.transformer(inputs["input_ids"], decoder_ids_BT=inputs.get("decoder_input_ids"))
        logits.logsumexp(-1).sum().backward()
        with torch.no_grad():
            for parameter in lm.transformer.parameters():
                parameter -= 1e-2 * parameter.grad.clamp(-1, 1)
        lm.save(tmp_path / str(step + 1))
    assert set(stored(tmp_path / "2")) == {name for name in stored(tmp_path / "0") if "pooler" not in name}
    back = read_by_transformers(tmp_path / "2", model_type)
    assert back.get_output_embeddings().weight is back.get_input_embeddings().weight
    assert_equal(their_logits(back, model_type), our_logits(lm, model_type))


def test_generation_config_survives(reference, tmp_path):
    theirs = reference("gpt2")
    theirs.generation_config = transformers.GenerationConfig(
        eos_token_id=[3, 4], pad_token_id=0, do_sample=True, temperature=0.7, top_p=0.9, max_new_tokens=9, guidance_scale=2.0
    )
    theirs.save_pretrained(tmp_path / "theirs")
    gamut.load(str(tmp_path / "theirs"), device="cpu").save(tmp_path / "ours")
    read = lambda name: json.loads((tmp_path / name / "generation_config.json").read_text())  # noqa: E731
    assert read("ours") == read("theirs")
    back = AUTO["gpt2"].from_pretrained(tmp_path / "ours").generation_config
    assert back.to_dict() == theirs.generation_config.to_dict()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "marian"])
def test_the_generation_config_that_transformers_writes_by_itself_asks_for_nothing_unknown(reference, ours, model_type):
    lm = ours(reference(model_type))
    assert lm.defaults.raw is not None
    assert lm.defaults.unsupported == ()


def test_a_directory_that_was_written_over_an_older_one_holds_no_weight_of_it(tiny_model, tmp_path):
    tiny_model("gpt2", seed=1).save(tmp_path / "m", shard_bytes=5000)
    lm = tiny_model("gpt2", seed=2)
    lm.save(tmp_path / "m")
    assert [file.name for file in (tmp_path / "m").glob("model*")] == ["model.safetensors"]
    assert_equal(their_logits(read_by_transformers(tmp_path / "m", "gpt2"), "gpt2"), our_logits(lm, "gpt2"))


def test_a_loaded_model_outlives_its_directory(reference, tmp_path):
    theirs = reference("gpt2")
    theirs.save_pretrained(tmp_path / "m")
    lm = gamut.load(str(tmp_path / "m"), device="cpu")
    shutil.rmtree(tmp_path / "m")
    assert_equal(our_logits(lm, "gpt2"), their_logits(theirs, "gpt2"))
