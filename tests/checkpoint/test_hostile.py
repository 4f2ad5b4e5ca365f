"""Directories made to hang or to break a reader: pipes for files, absurd sizes, weights that are no numbers of a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import gamut
from gamut.errors import ConfigError, GamutError, WeightsError


@pytest.fixture
def directory(tiny_model: Callable[..., gamut.LanguageModel], tmp_path: Path) -> Path:
    tiny_model("llama").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in this file system")
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_in_place_of_a_file_is_refused(directory: Path, name: str) -> None:
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    with pytest.raises(GamutError, match=name):
        gamut.load(directory, device="cpu")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.bool, torch.complex64])
def test_weights_must_be_floating_point(directory: Path, dtype: torch.dtype) -> None:
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(dtype)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"model\.norm\.weight in model\.safetensors: dtype .*expected a floating-point"):
        gamut.load(directory, device="cpu")


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size", "head_dim"])
@pytest.mark.parametrize("value", [10**9, 2**63, 10**30])
def test_an_absurd_size_is_refused_at_once(directory: Path, field: str, value: int) -> None:
    change(directory, **{field: value})
    with pytest.raises(ConfigError, match=field):
        gamut.load(directory, device="cpu")


def test_a_number_too_long_to_read_is_refused(directory: Path) -> None:
    (directory / "config.json").write_text('{"vocab_size": ' + "1" * 5001 + "}")
    with pytest.raises(ConfigError, match="too long"):
        gamut.load(directory, device="cpu")


def test_a_long_context_costs_nothing_until_it_is_used(directory: Path) -> None:
    change(directory, max_position_embeddings=1 << 24)
    lm = gamut.load(directory, device="cpu")
    assert lm.logits(torch.tensor([[1, 2, 3]])).shape == (1, 3, 40)


def change(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
