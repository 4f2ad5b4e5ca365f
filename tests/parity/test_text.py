"""Tokenizers and chats are those of transformers: ids, special tokens, chat templates, for what we write and what we read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gamut.text import KINDS, Tokenizer, chat_ids, render, train
from gamut.types import Message

transformers = pytest.importorskip("transformers")

CORPUS = ["The quick brown fox jumps over the lazy dog\n", "hello world, über naïve 世界\n"] * 10
TEXTS = ("The quick fox", " Hello  <0x41> ▁wörld\r\n\t 😀 zzz", "the <s> dog<|user|>\n fox. don't </s> [MASK]", "")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}\n    {% if m.role == 'user' %}\n<|user|>{{ m.content | trim }}\n"
    "    {% else %}{% generation %}{{ m.content ~ (eos_token or sep_token) }}{% endgeneration %}{% endif %}\n"
    "{% endfor %}{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)
CHAT = [Message("user", " Hi <s> & bye"), Message("assistant", "hello"), Message("user", "the <|user|>")]
TOOLS = [{"type": "function", "function": {"name": "größe", "parameters": {"<a>": 1}}}]


def auto(directory: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(directory)


def assert_equal_ids(ours: Tokenizer, theirs: Any) -> None:
    for text in TEXTS:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids, text
            assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(ids, skip_special_tokens=special)
    assert ours.vocab_size == len(theirs)
    assert ours.specials == theirs.special_tokens_map


@pytest.mark.parametrize("model_type", [None, "gpt2", "gpt_neo", "llama", "bert", "marian", "bart", "t5", "qwen3", "mistral"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_is_read_by_transformers(kind: str, model_type: str | None, tmp_path: Path) -> None:
    ours = train(CORPUS, kind, 600, extra_special_tokens=["<|user|>", "<|bot|>"]).with_chat_template(TEMPLATE)
    ours.save(tmp_path)
    if model_type is not None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = auto(tmp_path)
    assert_equal_ids(ours, theirs)
    assert_equal_ids(Tokenizer.load(tmp_path), theirs)
    assert_equal_chats(ours, theirs)


def assert_equal_chats(ours: Tokenizer, theirs: Any) -> None:
    mappings = [{"role": message.role, "content": message.content} for message in CHAT]
    for prompt in (True, False):
        for tools in (None, TOOLS):
            wanted = {"add_generation_prompt": prompt, "tools": tools}
            ids = theirs.apply_chat_template(mappings, return_dict=False, **wanted)
            assert chat_ids(ours, CHAT, **wanted) == ids
            text = theirs.apply_chat_template(mappings, tokenize=False, **wanted)
            assert ours.chat_template is not None
            assert render(ours.chat_template, mappings, **wanted, **ours.specials) == text


def added(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False} | flags


EXTRA_DECODER = {"400": added("<more>", special=True), "399": added("plain", special=False, normalized=True)}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config.json": {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", **added("</s>")}}},
        {"tokenizer_config.json": {"bos_token": "<s>", "add_bos_token": True, "add_eos_token": True}},
        {"tokenizer_config.json": {"bos_token": "the", "mask_token": "<mask>", "additional_special_tokens": ["<a>", "<b>"]}},
        {"tokenizer_config.json": {"image_token": "<image>", "extra_special_tokens": {"audio_token": "<audio>"}}},
        {"tokenizer_config.json": {"added_tokens_decoder": EXTRA_DECODER, "eos_token": "<more>", "pad_token": "<new>"}},
        {"tokenizer_config.json": {"added_tokens_decoder": EXTRA_DECODER, "eos_token": "plain"}},
        {"tokenizer_config.json": {"added_tokens_decoder": {}}, "special_tokens_map.json": {"bos_token": "<unread>"}},
        {"special_tokens_map.json": {"bos_token": "<s>", "eos_token": added("<end>", lstrip=True)}},
        {"added_tokens.json": {"<z>": 400, "<y>": 399}, "special_tokens_map.json": {"extra_special_tokens": ["<z>"]}},
        {"tokenizer_config.json": {"split_special_tokens": True, "eos_token": "</s>"}},
        {"tokenizer_config.json": {"model_max_length": 4, "padding_side": "left"}},
        {"tokenizer_config.json": {"chat_template": TEMPLATE, "bos_token": "<s>"}},
        {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": TEMPLATE}]}},
    ],
    ids=lambda files: json.dumps(files)[:70],
)
def test_what_lies_beside_a_tokenizer_is_read_as_transformers_reads_it(files: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "source"
    train(CORPUS, "bpe", 600).save(source)
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    for name, content in files.items():
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} if name == "tokenizer_config.json" else {}
        (source / name).write_text(json.dumps(config | content))
    ours = Tokenizer.load(source)
    theirs = auto(source)
    for text in (*TEXTS, "the plain<more><z><y> <end> <mask><a><image><audio>"):
        for special in (True, False):
            assert ours.encode(text, add_special_tokens=special) == theirs.encode(text, add_special_tokens=special), text
    assert ours.vocab_size == len(theirs)
    assert ours.specials == theirs.special_tokens_map
    every = range(ours.vocab_size)
    assert ours.decode(every) == theirs.decode(every, skip_special_tokens=True)
    if ours.chat_template is not None:
        assert_equal_chats(ours, theirs)
    # And so it is when it was read and written once more.
    ours.save(tmp_path / "copy")
    again = auto(tmp_path / "copy")
    assert again.get_vocab() == theirs.get_vocab()
    assert [again.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]
    assert again.special_tokens_map == theirs.special_tokens_map
    assert again.chat_template == theirs.chat_template


@pytest.mark.parametrize(
    "model_type", ["bart", "bert", "distilbert", "gpt2", "gpt_neo", "phi", "qwen2", "qwen3", "roberta", "t5"]
)
def test_special_tokens_that_the_class_implies_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    tokens = ["<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
    kind = {"bert": "wordpiece", "distilbert": "wordpiece", "t5": "unigram"}.get(model_type, "bpe")
    train(CORPUS, kind, 600, extra_special_tokens=tokens).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert Tokenizer.load(tmp_path).specials == auto(tmp_path).special_tokens_map


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "GPT2TokenizerFast", "DistilBertTokenizer"])
def test_the_named_class_implies_them_too(name: str, tmp_path: Path) -> None:
    tokens = ["<|endoftext|>", "<s>", "</s>", "<unk>", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
    train(CORPUS, "wordpiece" if "Bert" in name else "bpe", 600, extra_special_tokens=tokens).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "mask_token": None}))
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).specials == theirs.special_tokens_map
