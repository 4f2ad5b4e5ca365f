"""Reading and writing a model's directory: every fault of the weights is named, all at once, before any is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import gamut
from gamut.checkpoint import architecture, build, load_transformer, read_architecture, skeleton
from gamut.errors import ConfigError, NotFoundError, UnsafeFileError, WeightsError


@pytest.fixture
def directory(tiny_model, tmp_path) -> Path:
    """A tiny GPT-2's."""
    tiny_model("gpt2").save(tmp_path / "m")
    return tmp_path / "m"


def change(directory: Path, **tensors: torch.Tensor | None) -> None:
    """Put these tensors into the file, dots written as ``__``; ``None`` takes one out."""
    file = directory / "model.safetensors"
    held = load_file(file) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, file, {"format": "pt"})


# --- the config's head ----------------------------------------------------------------------------------------------------


def test_an_unknown_model_type_names_the_nearest():
    with pytest.raises(ConfigError, match=r"model_type 'gpt-2' is not implemented; did you mean 'gpt2'\? \(known: bert, gpt2,"):
        architecture({"model_type": "gpt-2"})


@pytest.mark.parametrize("model_type", [None, 3, ["gpt2"]])
def test_a_model_type_that_is_no_name(model_type):
    with pytest.raises(ConfigError, match=r"m/config.json: model_type .* is not implemented \(known: bert, gpt2,"):
        architecture({"model_type": model_type}, Path("m/config.json"))


def test_an_unknown_architecture():
    expected = r"'GPT2ForSequenceClassification' is not implemented for model_type 'gpt2' \(known: GPT2LMHeadModel, GPT2Model\)"
    with pytest.raises(ConfigError, match=expected):
        architecture({"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]})


@pytest.mark.parametrize("named", ["GPT2LMHeadModel", [], [3], {}])
def test_architectures_that_are_no_list_of_names(named):
    with pytest.raises(ConfigError, match="architectures must be a list of class names, got"):
        architecture({"model_type": "gpt2", "architectures": named})


def test_without_architectures_the_familys_first_is_meant():
    assert architecture({"model_type": "gpt2"}).name == "GPT2LMHeadModel"
    assert architecture({"model_type": "gpt2", "architectures": None}).name == "GPT2LMHeadModel"


def test_a_directory_without_config(tmp_path):
    with pytest.raises(NotFoundError, match=r"config\.json: no such file"):
        read_architecture(tmp_path)


# --- building -------------------------------------------------------------------------------------------------------------


def test_a_skeleton_has_shapes_and_no_memory(tiny_config):
    arch = architecture(tiny_config("marian"))
    bare, full = skeleton(arch), build(arch)
    assert {each.device.type for each in bare.parameters()} == {"meta"}
    shapes = [{name: each.shape for name, each in model.named_parameters()} for model in (bare, full)]
    assert shapes[0] == shapes[1]


def test_fresh_weights_follow_the_seed_and_the_dtype(tiny_config):
    arch = architecture(tiny_config("gpt2"))
    one, same, other = (build(arch, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["decoder.embeddings.tokens.weight"], other["decoder.embeddings.tokens.weight"])
    model = build(arch, dtype=torch.bfloat16)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    assert not model.training


# --- weights that do not fit ------------------------------------------------------------------------------------------------


def test_every_fault_is_named_with_file_tensor_expected_and_got(directory):
    change(
        directory,
        transformer__ln_f__bias=None,
        transformer__wpe__weight=torch.zeros(31, 16),
        transformer__h__0__attn__c_attn__weight=torch.zeros(48, 16),
        transformer__h__0__attn__gate=torch.zeros(3),
    )
    with pytest.raises(WeightsError) as caught:
        gamut.load(str(directory), device="cpu")
    message = str(caught.value)
    assert message.startswith(f"{directory}: the weights do not fit config.json:")
    for fault in (
        "transformer.ln_f.bias: missing; expected shape [16]",
        "transformer.wpe.weight in model.safetensors: shape [31, 16], expected [32, 16] by config.json",
        "transformer.h.0.attn.c_attn.weight in model.safetensors: shape [48, 16], expected [16, 48] by config.json",
        "transformer.h.0.attn.gate in model.safetensors: unknown, of shape [3]; GPT2LMHeadModel has no such weight",
    ):
        assert f"\n  {fault}" in message
    assert message.endswith("Fetch or save the model again, or mend config.json if it belongs to another model")


def test_the_message_names_the_shard(tiny_model, tmp_path):
    tiny_model("gpt2").save(tmp_path / "m", shard_bytes=5000)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"n_positions": 33}))
    with pytest.raises(
        WeightsError, match=r"wpe\.weight in model-0000\d-of-0000\d\.safetensors: shape \[32, 16\], expected \[33"
    ):
        gamut.load(str(tmp_path / "m"), device="cpu")


def test_after_ten_faults_the_rest_are_counted(directory):
    change(directory, **{f"extra{i:02}": torch.zeros(1) for i in range(13)})
    with pytest.raises(WeightsError, match=r"extra09 in .*\n  \.\.\. and 3 more\n") as caught:
        gamut.load(str(directory), device="cpu")
    assert "extra10" not in str(caught.value)


def test_a_copy_of_a_tied_table_is_accepted_and_a_different_one_refused(directory):
    table = load_file(directory / "model.safetensors")["transformer.wte.weight"]
    change(directory, lm_head__weight=table.clone())
    gamut.load(str(directory), device="cpu")
    change(directory, lm_head__weight=table + 1)
    expected = r"lm_head\.weight in model\.safetensors: differs from the token embedding, to which config\.json ties it"
    with pytest.raises(WeightsError, match=expected):
        gamut.load(str(directory), device="cpu")


def test_an_untied_head_that_is_missing(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(WeightsError, match=r"lm_head\.weight: missing; expected shape \[40, 16\]"):
        gamut.load(str(directory), device="cpu")


def test_a_directory_without_weights(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"expected weights in model\.safetensors"):
        gamut.load(str(directory), device="cpu")


def test_a_pickle_is_read_only_where_it_is_allowed(directory):
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    expected = gamut.load(str(directory), device="cpu").logits(torch.tensor([[1, 2]]))
    (directory / "model.safetensors").unlink()
    with pytest.raises(UnsafeFileError, match="allow_pickle=True"):
        gamut.load(str(directory), device="cpu")
    lm = gamut.load(str(directory), device="cpu", allow_pickle=True)
    assert torch.equal(lm.logits(torch.tensor([[1, 2]])), expected)


# --- what is loaded and written ---------------------------------------------------------------------------------------------


def test_a_loaded_model_is_in_evaluation_mode_and_can_be_trained(directory):
    transformer = load_transformer(directory, read_architecture(directory))
    assert not transformer.training
    assert all(each.requires_grad and not each.is_meta for each in transformer.parameters())
    before = load_file(directory / "model.safetensors")
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(1.0)
    after = load_file(directory / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before), "training wrote through to the file"


def test_the_config_is_written_as_it_was_with_class_and_dtype(tiny_config, tmp_path):
    fields = tiny_config("gpt2", bos_token_id=7, torch_dtype="float32", resid_pdrop=0.25)
    lm = gamut.LanguageModel.from_config(fields)
    lm.transformer.to(torch.bfloat16)
    lm.save(tmp_path / "m")
    written = json.loads((tmp_path / "m" / "config.json").read_text())
    expected = {name: value for name, value in fields.items() if name != "torch_dtype"}
    assert written == expected | {"architectures": ["GPT2LMHeadModel"], "dtype": "bfloat16"}
