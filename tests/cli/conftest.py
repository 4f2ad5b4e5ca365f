"""A small chat model on disk, made on the spot, whose next tokens are far from equally probable."""

from __future__ import annotations

from pathlib import Path

import pytest

import gamut
from gamut.text import train

SENTENCES = (
    "the river carries the old boat down to the sea",
    "a small boat waits at the river until the morning",
    "the old captain reads a map and looks at the sea",
)
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA with a tokenizer of words and a chat template, as a directory; tests copy it before they change it."""
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = train(SENTENCES, "word", 100, extra_special_tokens=roles).with_chat_template(TEMPLATE)
    shape = {
        "model_type": "llama",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
    }
    directory = tmp_path_factory.mktemp("models") / "small"
    gamut.LanguageModel.from_config(shape, tokenizer, seed=1).save(directory)
    return directory
