"""Sizes are counted, not estimated: the parts add up to the whole, and the bytes to what the tensors take."""

from __future__ import annotations

import pytest
import torch

from gamut.checkpoint import architecture
from gamut.nn.footprint import cache_bytes, parameters_by_part, weight_bytes


def test_gpt2_small_has_its_published_number_of_parameters():
    from gamut.checkpoint import skeleton

    parts = parameters_by_part(skeleton(architecture({"model_type": "gpt2"})))
    assert sum(parts.values()) == 124_439_808  # the released model's
    assert parts == {
        "decoder embeddings": 50257 * 768 + 1024 * 768,
        "decoder attention": 12 * (4 * 768 * 768 + 4 * 768),
        "decoder feed-forward": 12 * (2 * 768 * 3072 + 768 + 3072),
        "decoder norms": (12 * 2 + 1) * 2 * 768,
    }


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bert", "marian"])
def test_the_parts_add_up(tiny_model, model_type):
    transformer = tiny_model(model_type, tie_word_embeddings=False).transformer
    count = sum(parameter.numel() for parameter in transformer.parameters())
    parts = parameters_by_part(transformer)
    assert sum(parts.values()) == count
    assert parts["head"] >= 40 * 16
    assert ("decoder cross-attention" in parts) == (model_type == "marian")
    assert weight_bytes(transformer) == {"float32": 4 * count, "bfloat16": 2 * count, "float16": 2 * count}


def test_a_shared_table_counts_once(tiny_model):
    parts = parameters_by_part(tiny_model("marian").transformer)
    assert parts["encoder embeddings"] == 40 * 16
    assert "decoder embeddings" not in parts
    assert parts["head"] == 40  # its bias


def test_cache_bytes(tiny_config):
    # Keys and values, 2 layers, 2 heads of size 8.
    assert cache_bytes(architecture(tiny_config("gpt2")).config) == {"float32": 256, "bfloat16": 128, "float16": 128}
    assert set(cache_bytes(architecture(tiny_config("bert")).config).values()) == {0}
    assert torch.float32.itemsize == 4
