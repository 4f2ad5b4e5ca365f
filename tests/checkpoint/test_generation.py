"""The generation defaults of a checkpoint: read from either file, refused where they are wrong or not implemented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gamut
from gamut.checkpoint.generation import generation_in_config, read_generation
from gamut.errors import ConfigError


def read(directory: Path, fields: dict[str, Any], config: dict[str, Any] | None = None):
    (directory / "generation_config.json").write_text(json.dumps(fields))
    return read_generation(directory, config or {})


def test_every_field_that_is_implemented(tmp_path):
    sampling = {
        "max_new_tokens": 9, "min_new_tokens": 2, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8, "num_beams": 2,
        "length_penalty": 0.5, "early_stopping": "never", "repetition_penalty": 1.2, "no_repeat_ngram_size": 3,
        "num_return_sequences": 2,
    }  # fmt: skip
    others = {
        "do_sample": True, "temperature": 0.7, "max_length": 30, "min_length": 4, "bos_token_id": 1, "eos_token_id": [2, 3],
        "pad_token_id": 0, "decoder_start_token_id": 5, "forced_bos_token_id": 6, "forced_eos_token_id": 2,
        "suppress_tokens": [7], "begin_suppress_tokens": [8, 9], "bad_words_ids": [[4], [5, 6]], "renormalize_logits": True,
    }  # fmt: skip
    found = read(tmp_path, sampling | others)
    assert {name: getattr(found.sampling, name) for name in sampling} == sampling
    assert found.sampling.temperature == 0.7
    assert (found.max_length, found.min_length) == (30, 4)
    assert (found.bos_id, found.eos_ids, found.pad_id, found.decoder_start_id) == (1, (2, 3), 0, 5)
    assert (found.forced_bos_id, found.forced_eos_ids) == (6, (2,))
    assert (found.suppress, found.begin_suppress, found.bad_words) == ((7,), (8, 9), ((4,), (5, 6)))
    assert found.renormalize is True
    assert found.unsupported == ()
    assert found.raw == sampling | others


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [({}, 0.0), ({"temperature": 0.6}, 0.0), ({"do_sample": True}, 1.0), ({"do_sample": True, "temperature": 0.6}, 0.6)],
)
def test_without_do_sample_the_choice_is_greedy(tmp_path, fields, temperature):
    assert read(tmp_path, fields).sampling.temperature == temperature


def test_special_tokens_that_the_file_does_not_name_are_those_of_config_json(tmp_path):
    config = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "max_length": 9}
    found = read(tmp_path, {"eos_token_id": 5, "pad_token_id": None}, config)
    assert (found.bos_id, found.eos_ids, found.pad_id) == (1, (5,), 3)
    assert found.max_length is None  # where there is a generation_config.json, it alone says how to generate


def test_older_directories_keep_the_settings_in_config_json(tmp_path):
    found = read_generation(tmp_path, {"eos_token_id": 2, "num_beams": 4, "max_length": 9, "n_layer": 3})
    assert (found.eos_ids, found.sampling.num_beams, found.max_length, found.raw) == ((2,), 4, 9, None)
    assert found.path == tmp_path / "config.json"


def test_a_model_that_is_built_from_a_config_obeys_its_settings_as_it_does_after_save_and_load(tiny_config, tmp_path):
    lm = gamut.LanguageModel.from_config(tiny_config("gpt2", max_length=6, eos_token_id=None))
    lm.save(tmp_path / "m")
    for model in (lm, gamut.load(str(tmp_path / "m"), device="cpu")):
        assert model.generate_ids(torch.tensor([[1, 2]])).shape == (1, 4)
        model.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"top_p": 1.5}, "top_p must be a number above 0 and at most 1, got 1.5"),
        ({"top_k": "many"}, "top_k must be an integer of at least 0, got 'many'"),
        ({"do_sample": True, "temperature": -1.0}, "temperature must be a number of at least 0, got -1.0"),
        ({"early_stopping": "soon"}, "early_stopping must be true, false or"),
        ({"do_sample": "yes"}, "do_sample must be true or false, got 'yes'"),
        ({"renormalize_logits": 1}, "renormalize_logits must be true or false, got 1"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be made of integers of at least 0, got '</s>'"),
        ({"eos_token_id": [2, -1]}, "eos_token_id must be made of integers of at least 0, got -1"),
        ({"pad_token_id": 1.0}, "pad_token_id must be made of integers of at least 0, got 1.0"),
        ({"pad_token_id": True}, "pad_token_id must be made of integers of at least 0, got True"),
        ({"bad_words_ids": [5]}, r"bad_words_ids must be made of integers of at least 0, got \[5\]"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids must be made of integers of at least 0, got \[\[\]\]"),
        ({"bad_words_ids": [["no"]]}, "bad_words_ids must be made of integers of at least 0, got 'no'"),
        ({"max_length": "long"}, "max_length must be made of integers of at least 0, got 'long'"),
    ],
)
def test_values_that_a_field_cannot_have(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=rf"generation_config\.json: {message}"):
        read(tmp_path, fields)
    with pytest.raises(ConfigError, match=rf"^config: {message}"):
        generation_in_config(fields, Path("config"))


UNSUPPORTED = {
    "guidance_scale": 2,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "eta_cutoff": 1e-4,
    "encoder_no_repeat_ngram_size": 3,
    "an_invented_field": True,
}


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED.items())
def test_a_setting_that_is_not_implemented_loads_is_refused_at_generation_and_survives(tiny_model, tmp_path, name, value):
    tiny_model("gpt2").save(tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({name: value}))
    lm = gamut.load(str(tmp_path / "m"), device="cpu")
    lm.logits(torch.tensor([[1, 2]]))
    expected = rf"generation_config\.json: generation settings that are not implemented: {name} = {value}\. Take them out"
    with pytest.raises(ConfigError, match=expected):
        lm.generate_ids(torch.tensor([[1, 2]]), max_new_tokens=2)
    lm.save(tmp_path / "n")
    assert json.loads((tmp_path / "n" / "generation_config.json").read_text()) == {name: value}


def test_fields_that_are_off_or_change_no_token_are_accepted(tmp_path):
    off = {"guidance_scale": 1.0, "num_beam_groups": 1, "diversity_penalty": 0.0, "epsilon_cutoff": 0.0, "low_memory": False}
    inert = {"transformers_version": "5.0.0", "use_cache": False, "cache_implementation": "static", "_from_model_config": True}
    found = read(tmp_path, off | inert | {"penalty_alpha": None})
    assert found.unsupported == ()
    found.require_supported()
